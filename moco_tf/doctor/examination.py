"""All checks of `doctor`, in their order.

Several workers prove their devices together, and each calls `examine`: what
they exchange comes in the same order at all. The chief alone looks at images,
prints the table and writes files.
"""

import contextlib
import faulthandler
import functools
import os
import signal
import sys
import time
from typing import Any, NamedTuple

import tensorflow as tf

from moco_tf import cores, counting, paths, plan
from moco_tf.cluster import watchdog
from moco_tf.data import specs
from moco_tf.doctor import (
    auto,
    devices,
    exchange,
    images,
    recipe,
    reference,
    report,
    resources,
    rules,
    scan,
    table,
)
from moco_tf.training import distribution

_PROOF_SECONDS = 120.0  # after which no further proof begins
# Seconds of a proof. First kernels may be compiled; between GPUs an exchange
# may wait for ever, and CPUs may be busy.
_LONGEST = {"GPU": 600.0, "CPU": 3600.0}
_PROOFS = "reference", "gather", "numbers", "resume"


class Request(NamedTuple):
    """What `doctor` examines, and the files that it writes.

    Attributes:
      config: ConfigDict. workdir: folder of the run that is planned, or "".
      path: CSV file for the faults of images; "" = doctor.csv in the workdir.
      json: file for the table; "" = none.
      trial_steps: int; 0 = no trial. prove: whether to check the devices.
      rate_per_image: learning rate / batch size in the configuration's file;
        None = not known.
      gpu_fault: str, why GPUs that are there are not used, and the remedy.
      exchange: the flag that chose how replicas exchange, without its dashes.
      deterministic: bool, whether sums come in a fixed order.
      report: file about the machine, to be sent to others; "" = none.
      name: of the configuration, in that file.
      look: bool, whether to look at the images, and time steps on them; if not,
        the batch is one that the devices hold.
      patient: bool, whether proofs go on after two minutes.
      given: dict "section.field" -> text, what was typed, where `config` is
        None and is to be chosen; None.
    """

    config: Any
    workdir: str = ""
    path: str = ""
    json: str = ""
    trial_steps: int = 20
    prove: bool = False
    rate_per_image: float | None = None
    gpu_fault: str = ""
    exchange: str = "cross_device_ops=auto"
    deterministic: bool = False
    report: str = ""
    name: str = ""
    look: bool = True
    patient: bool = False
    given: dict | None = None


def examine(request, strategy, guard=None):
    """Examines data, devices and configuration, and prints the results.

    Args:
      request: Request.
      strategy: tf.distribute.Strategy of the run.
      guard: watchdog.Guard of this process; None: a process on its own.

    Returns:
      list of table.Row; of a worker that is not the chief, its own.

    Raises:
      OSError: if a file that was asked for cannot be written.

    Side effects: prints; writes the CSV and JSON files, and the preset file of
    a configuration that is chosen.
    """
    guard = guard or watchdog.Guard()
    guard.limit(0, "the examination by worker 0")
    # Before TensorFlow takes some of it, which it never gives back.
    free = resources.free_here()
    choice = None
    if request.config is None:
        choice = auto.Choice(request.given, strategy, free)
        if choice.fault:
            row = table.Row("choice", choice.fault, table.FAIL)
            rows = [row, devices.devices_row(strategy, request.gpu_fault)]
            _report(rows, request, {}, table.overrides(rows))
            return rows
        request = _chosen(request, choice)
    if not request.look:
        config = report.fitted(request.config, strategy, free)
        request = request._replace(config=config)
    draft = None
    if request.report and guard.is_chief:
        draft = report.Draft(request, strategy)
    visit = _Visit(request, strategy, guard, free, choice, draft)
    rows = visit.rows()
    counts = images.count_faults(visit.faults) if visit.source else {}
    if guard.is_chief:
        _report(rows, visit.request, counts, visit.suggestions(rows))
        if choice:
            choice.keep(request.workdir)
    elif failing := [row for row in rows if row.verdict == table.FAIL]:
        table.print_text(f"{guard.cluster.name()}:")
        table.print_text(table.format_rows(failing))
    if request.report:
        visit.measure(rows)
    longest = _LONGEST[distribution.kind_of_devices()]
    guard.limit(longest, "the other workers' examination")
    distribution.wait_for_all(strategy)
    return rows


def _chosen(request, choice):
    """A Request with the configuration of an auto.Choice."""
    chosen = choice.chosen
    rate = rules.rate_of(chosen.preset)
    return request._replace(config=chosen.config, rate_per_image=rate)


class _Visit:
    """One examination, whose rows are made in their order.

    Attributes:
      request: Request, with the configuration. source: Source, or None.
      faults: list of images.Fault. fits: bool, whether the configuration can
        work at all.
    """

    def __init__(self, request, strategy, guard, free, choice, draft):
        """Takes what `examine` has; `draft`: report.Draft, or None."""
        self.request, self.source = request, None  # type: Any, Any
        self.faults: list[images.Fault] = []
        self._strategy, self._guard, self._draft = strategy, guard, draft
        self._free, self._choice, self._figures = free, choice, None
        self.fits = False

    def rows(self):
        """All checks: list of table.Row."""
        request, strategy, guard = self.request, self._strategy, self._guard
        rows: list[table.Row] = []
        self.fits = _check_config(rows, request, strategy)
        rows.append(devices.devices_row(strategy, request.gpu_fault))
        kind = distribution.kind_of_devices()
        rows += recipe.precision_rows(request.config, kind)
        if self.fits and request.config.model.init:
            rows.append(recipe.start_row(request.config, request.workdir))
        if request.look:
            self.source = _open(rows, request.config)
        with _bar(self._work()) as bar:
            if self.source is not None and guard.is_chief:
                rows += self._look(bar)
            if request.look and guard.is_chief:
                rows.append(recipe.knn_row(self.request.config))
            distribution.wait_for_all(strategy)  # however long worker 0 looks
            if request.prove and self.fits:
                note = functools.partial(self._note, rows)
                rows += _prove(self.request, strategy, guard, note=note)
            if self.fits:
                rows += self._run(rows, bar)
        rows.append(_open_row(rows, strategy, guard))
        return rows

    def _note(self, rows, more=(), activity=""):
        """Writes the report as it is when something begins, or at the end."""
        if self._draft:
            self._draft.request = self.request
            self._draft.rows = [*rows, *more]
            self._draft.save(activity)

    def measure(self, rows):
        """Times what the report holds besides `rows`, and finishes it."""
        draft, strategy, guard = self._draft, self._strategy, self._guard
        replicas = strategy.num_replicas_in_sync
        exchanges = self.fits and "gather" not in table.failures(rows)
        if replicas > 1 and _agree(strategy, exchanges):
            activity = "the time of collectives"
            _announce(activity, guard)
            self._note(rows, activity=activity)
            load = exchange.load_of(self.request.config, replicas)
            with _limited(guard, activity):
                collectives = exchange.measure(strategy, load)
            if draft:
                draft.collectives = collectives
        if distribution.worker_count(strategy) == 1:
            for news in report.run_benchmarks(strategy, self._free):
                if isinstance(news, str):
                    table.print_text(news)
                    self._note(rows, activity=news)
                else:
                    table.print_text(report.describe(news))
                    draft.benchmarks.append(news)
        self._note(rows)
        if draft:
            where = paths.shown(self.request.report)
            table.print_text(
                f"\nThe report is {where}. It has no paths, names or "
                "addresses; read it before you send it."
            )

    def _work(self):
        """What the bar counts: images that are read, and those of a trial."""
        if self.source is None or not self._guard.is_chief:
            return 0
        return len(self.source) + self._of_trial() * bool(self.fits)

    def _of_trial(self):
        """Images of the steps of a trial."""
        steps = self.request.trial_steps
        batch = self.request.config.train.batch_size
        return (devices.WARM_UP + steps) * batch if steps else 0

    def _look(self, bar):
        """The rows about images, and about the recipe for so many."""
        source, config = self.source, self.request.config
        _announce(f"{len(source)} images", bar=bar)
        threads = config.data.threads or cores.count()
        self._figures = scan.scan_source(source, threads, bar.add)
        if self._choice:
            short, pixels = recipe.median_sizes(self._figures)
            self._choice.again(short_side=short, pixels=pixels)
            self.request = _chosen(self.request, self._choice)
        rows, self.faults = _examine_images(source, self._figures, self.request)
        return rows + self._of_recipe()

    def _of_recipe(self):
        """The rows about the recipe for so many images."""
        return recipe.training_rows(
            self.request.config,
            len(self.source),
            self.request.rate_per_image,
            self._strategy.num_replicas_in_sync,
        )

    def _run(self, rows, bar):
        """The rows about memory, disk and time."""
        count = 0 if self.source is None else len(self.source)
        more = resources.rows(
            self.request.config,
            self._strategy,
            self.source,
            self._free,
            self.request.workdir,
        )
        ready = self.source is not None
        ready &= not table.failures(rows + more)
        tries = self.request.trial_steps and self.request.look
        if not (tries and _agree(self._strategy, ready)):
            return more
        subject = f"{self.request.trial_steps} steps of the run itself"
        _announce(subject, self._guard, bar)
        batch = self.request.config.train.batch_size
        trial, row = _try(
            self.request,
            self.source,
            self._strategy,
            lambda: bar.add(batch),
        )
        if trial and self._choice:
            self._choice.again(step_seconds=trial.seconds)
            self.request = _chosen(self.request, self._choice)
            row = devices.trial_row(self.request.config, count, trial)
            # The length goes with the time of a step.
            renewed = {each.check: each for each in self._of_recipe()}
            rows[:] = [renewed.get(each.check, each) for each in rows]
        return [*more, row]

    def suggestions(self, rows):
        """The overrides with which these checks have nothing to say."""
        if not self.fits or self._figures is None:
            return table.overrides(rows)
        facts = auto.measure(self.source, self._strategy, self._figures)
        request = self.request
        bank = recipe.count_bank(request.config)
        facts = facts._replace(free=self._free, bank=bank)
        settled = rules.settle(
            request.config, facts, auto.forecast(facts), request.rate_per_image
        )
        return settled.changes


def _bar(total):
    """What counts the images of an examination."""
    return counting.Counter(
        total, 0, "examining", sys.stdout, brief=True, leave=False
    )


def _agree(strategy, ready):
    """Whether all workers are ready, which must all call this."""
    if distribution.worker_count(strategy) == 1:
        return ready
    return not distribution.sum_of_workers(strategy, 0 if ready else 1)


@functools.cache
def _watchdog():
    """The Watchdog of a process on its own, which has none otherwise."""
    faulthandler.register(signal.SIGUSR2, sys.__stderr__ or 2)
    return watchdog.Watchdog("doctor")


@contextlib.contextmanager
def _limited(guard, activity):
    """Kills this process if the block does not end: collectives may wait."""
    dog: Any = guard if guard.cluster else _watchdog()
    dog.limit(_LONGEST[distribution.kind_of_devices()], activity)
    try:
        yield
    finally:
        dog.limit(0, "what follows")


def _prove(
    request, strategy, guard, clock=time.monotonic, note=lambda *_: None
):
    """The rows of the proofs: of the devices, with all that the run uses."""
    config, replicas = request.config, strategy.num_replicas_in_sync

    def gather():
        load = exchange.load_of(config, replicas)
        return [exchange.check_gather(strategy, load, request.exchange)]

    def small_run():
        return devices.check_small_run(config, strategy, request.deterministic)

    remedy = exchange.remedy(strategy, request.exchange)
    begun, rows = clock(), []
    for names, subject, prove in (
        (_PROOFS[:1], "steps of the reference", _reference),
        (_PROOFS[1:2], f"an exchange of {replicas} replicas", gather),
        (_PROOFS[2:], "a small run", small_run),
    ):
        late = not request.patient and clock() - begun > _PROOF_SECONDS
        if late and distribution.worker_count(strategy) == 1:
            words = f"not proved: {_PROOF_SECONDS:.0f} s are over"
            again = (
                "Run it again: what was compiled now is kept by the driver. Or "
                "pass --prove=always."
            )
            rows += [table.Row(n, words, table.OPEN, again) for n in names]
            continue
        _announce(f"the devices: {subject}", guard)
        note(rows, f"the devices: {subject}")
        try:
            with _limited(guard, f"{subject} (if again: {remedy})"):
                rows += prove()
        except tf.errors.OpError as error:
            words = f"failed: {_first_line(error)}"
            rows.append(table.Row(names[0], words, table.FAIL, remedy))
            if guard.cluster:  # no worker exchanges anything any more
                table.print_text(table.format_rows(rows))
                raise
    if distribution.worker_count(strategy) > 1:
        rows.append(_workers(rows, strategy, guard))
    return rows


def _reference():
    return [reference.check_reference()]


def _first_line(error):
    return error.message.splitlines()[0][:200]


def _workers(rows, strategy, guard):
    """The row about the proofs at all workers, which must all call this."""
    own = 1 if table.failures(rows) else 0
    failed = distribution.sum_of_workers(strategy, own)
    count = distribution.worker_count(strategy)
    words = f"{count} workers proved their devices together"
    if guard.cluster.local()[1] == count:
        words += ", all on this host: no network between them"
    if failed:
        words += f"; at {failed} of them a proof failed"
        remedy = "Read what each worker printed, and mend that one first."
        return table.Row("workers", words, table.FAIL, remedy)
    return table.Row("workers", words)


def _open_row(rows, strategy, guard):
    """The row of what nothing here has proved, in words."""
    known = {row.check for row in rows if row.verdict == table.OK}
    lacking = [name for name in _PROOFS if name not in known]
    lacks = []
    if len(lacking) == len(_PROOFS):
        lacks.append("the devices (--prove=always)")
    elif lacking:
        lacks.append(", ".join(lacking))
    if strategy.num_replicas_in_sync == 1:
        lacks.append("an exchange between devices")
    if distribution.worker_count(strategy) == 1:
        lacks.append("several hosts (the same command on each, --workers)")
    elif guard.cluster.local()[1] == distribution.worker_count(strategy):
        lacks.append("a network between hosts")
    if distribution.kind_of_devices() == "CPU":
        lacks.append("GPUs")
    if "time" not in known:
        lacks.append("steps of the run itself, and their memory")
    lacks.append("the accuracy at the end")
    return table.Row("not proved", "; ".join(lacks), table.OPEN)


def _check_config(rows, request, strategy):
    """Adds a row; returns whether the configuration can work at all."""
    replicas = strategy.num_replicas_in_sync
    try:
        plan.check(request.config, replicas)
    except ValueError as error:
        rows.append(table.Row("configuration", str(error), table.FAIL))
        return False
    words = "every rule that needs no data"
    if not request.look:
        count = request.config.train.batch_size // replicas
        words += f", of {request.name} with {count} images a replica"
    rows.append(table.Row("configuration", words))
    return True


def _open(rows, config):
    """The source, or None and a row that says why not."""
    try:
        source = plan.open_source(config, config.data.source)
    except ValueError as error:
        rows.append(table.Row("source", str(error), table.FAIL))
        return None
    words = f"{len(source)} images of {paths.shown(config.data.source)}"
    rows.append(table.Row("source", words))
    return source


def _examine_images(source, figures, request):
    """The rows about images, and their faults."""
    config = request.config
    faults = images.find_faults(source, figures, config.data.image_size)
    rows = images.remark_rows(source)
    rows += images.format_rows(figures)
    rows += images.fault_rows(source, faults, config.data.max_corrupt_fraction)
    rows += _count_classes(source, config)
    rows += recipe.size_rows(config, figures)
    path = request.path
    if not path and request.workdir:
        path = os.path.join(request.workdir, "doctor.csv")
    if path and _write_csv(path, source, faults, request):
        table.print_text(
            f"{len(faults)} findings about images in {paths.shown(path)}"
        )
    elif faults:
        table.print_text(
            "Pass --path=FILE.csv to have all of these images named."
        )
    return rows, faults


def _write_csv(path, source, faults, request):
    """Writes the findings about images; False where there is no place.

    Raises:
      OSError: where --path was given.
    """
    try:
        images.write_csv(path, source, faults)
    except OSError:
        if request.path:
            raise
        return False  # the row about the disk says what the workdir lacks
    return True


def _count_classes(source, config):
    try:
        bank = "" if source.labels is not None else _labelled_bank(config)
        return images.class_rows(source, config.data.source, bank)
    except ValueError as error:  # labels that lie in damaged records
        words = f"labels cannot be read: {error}"
        remedy = "Prepare the data set anew."
        return [table.Row("classes", words, table.FAIL, remedy)]


def _labelled_bank(config):
    """The bank of kNN, if it is of other images and has labels; else ""."""
    bank, spec = config.knn.bank, config.data.source
    if not bank or specs.absolute(bank) == specs.absolute(spec):
        return ""
    return bank if recipe.count_bank(config) else ""


def _try(request, source, strategy, done):
    """Some steps of the run itself: devices.Trial or None, and its row."""
    try:
        trial = devices.run_trial(
            request.config, source, strategy, request.trial_steps, done=done
        )
    except tf.errors.ResourceExhaustedError as error:
        words = f"out of memory: {_first_line(error)}"
        remedy = "Lower train.batch_size, and the rate with it."
        return None, table.Row("time", words, table.FAIL, remedy)
    except tf.errors.OpError as error:
        words = f"a step failed: {_first_line(error)}"
        remedy = "Run with --verbose."
        return None, table.Row("time", words, table.FAIL, remedy)
    return trial, devices.trial_row(request.config, len(source), trial)


def _announce(subject, guard=None, bar=None):
    """Says what begins: on the bar, or where there is none in a line."""
    if guard is not None and not guard.is_chief:
        return
    if bar is None or not bar.describe(subject):
        table.print_text(f"examining {subject}")


def _report(rows, request, counts, suggestions):
    """Prints the table and the suggested flags; writes the JSON file."""
    table.print_text("\n" + table.format_rows(rows))
    flags = table.flags(suggestions)
    if flags and request.look:
        table.print_text("\nSuggested:\n  " + " \\\n  ".join(flags))
    if request.json:
        table.write_json(request.json, rows, counts, suggestions)
