"""--config=auto: what is counted, the choice of the rules, and its preset.

    facts = measure(source, strategy)
    chosen = rules.choose(facts, given, forecast(facts))

`start` does all of it for a run and times some steps; the doctor has the steps
of its own trial. The choice is a preset file, which loads as any other.
"""

import pathlib
import textwrap

import numpy as np
import tensorflow as tf

import moco_tf
from moco_tf import config as configs
from moco_tf import config_schema, cores, counting, paths, records, state_files
from moco_tf.data import sources, specs, unreadable
from moco_tf.doctor import devices, recipe, resources, rules, scan, table
from moco_tf.models import inputs
from moco_tf.training import distribution, gpus
from moco_tf.weights import origin

_STEPS = 5  # timed, of a run that starts
_TRIES = 4  # of a trial, each for less memory
_LESS = 0.7  # of the memory, after one that had not enough
_WIDTH = 78  # columns of a preset file


def open_source(given):
    """The source that is to be looked at.

    Args:
      given: dict "section.field" -> text, what was typed.

    Raises:
      ValueError: where none is named, or it cannot be opened.
    """
    config = configs.load(configs.auto_base(given), given)
    config_schema.check_source(config)
    spec = config.data.source
    kind = "pair" if spec.startswith("pairs:") else config.model.input
    return sources.open_source(spec, inputs.CHANNELS[kind])


def _bank_of(given):
    """Labelled images that kNN is to vote with, of what was typed."""
    if "knn.bank" not in given:
        return 0
    return recipe.count_bank(configs.load(configs.auto_base(given), given))


def with_start(given):
    """What was typed, and what the weights that it starts from ask for.

    Args:
      given: dict "section.field" -> text, what was typed.

    Returns:
      dict like it, with the network that model.init is of; and a line that
      says so, or "".

    Raises:
      ValueError: for weights that cannot be read.
    """
    text = given.get("model.init")
    if not text:
        return given, ""
    config = configs.load(configs.auto_base(given), given)
    weights = origin.read(text, config.method)
    fields = {
        f"model.{name}": str(value)
        for name, value in weights.fields.items()
        if f"model.{name}" not in given
    }
    words = ", ".join(f"{name}={value}" for name, value in fields.items())
    name = paths.shown(weights.path)
    return fields | given, f"As {name} has it: {words}" if words else ""


def measure(source, strategy, figures=None):
    """Counts what the rules look at, but no time.

    Args:
      source: Source. strategy: tf.distribute.Strategy of the run.
      figures: scan.Scan of the source; None: some images are read.

    Returns:
      rules.Facts.
    """
    if figures is None:
        figures = scan.sample(source, cores.count())
    short, pixels = recipe.median_sizes(figures)
    classes = 0
    if source.labels is not None:
        labels = np.asarray(source.labels)
        classes = len(np.unique(labels[labels >= 0]))
    kind = distribution.kind_of_devices()
    replicas = strategy.num_replicas_in_sync
    half = "mixed_bfloat16" if cores.multiply_bfloat16() else ""
    return rules.Facts(
        images=len(source),
        short_side=short,
        pixels=pixels,
        channels=source.channels,
        classes=classes,
        kind=kind,
        replicas=replicas,
        here=replicas // distribution.worker_count(strategy),
        cores=cores.count(),
        free=resources.free_here(),
        stored=getattr(source, "memory", 0),
        half=gpus.half_precision() if kind == "GPU" else half,
    )


def forecast(facts):
    """The resources.Forecast of facts."""
    return resources.Forecast(
        facts.images, facts.kind, facts.replicas, facts.here, facts.stored
    )


def start(given, strategy, steps=_STEPS):
    """Chooses the configuration of a run that starts, and says so.

    Args:
      given: dict "section.field" -> text, what was typed; it stays.
      strategy: tf.distribute.Strategy of the run. steps: int, to time.

    Returns:
      ConfigDict, and the text of its preset file.

    Raises:
      ValueError: for images or fields that no rule makes a run of.

    Side effects: prints; those of devices.run_trial.
    """
    given, words = with_start(given)
    source = open_source(given)
    facts = measure(source, strategy)._replace(bank=_bank_of(given))
    if not facts.short_side:
        unreadable.require_one(source)
    predict = forecast(facts)
    print(f"--config=auto: {describe_facts(facts)}", flush=True)
    if words:
        print(words)
    for attempt in range(_TRIES):
        chosen = rules.choose(facts, given, predict)
        try:
            trial = _timed(chosen.config, source, strategy, steps)
            break
        except tf.errors.ResourceExhaustedError:
            if facts.free is None or attempt == _TRIES - 1:
                raise
            print("Steps of this size have no room: smaller ones are tried.")
            facts = facts._replace(free=int(_LESS * facts.free))
    facts = facts._replace(step_seconds=trial.seconds)
    chosen = rules.choose(facts, given, predict)
    print(describe(chosen))
    return chosen.config, preset_text(chosen, facts)


def _timed(config, source, strategy, steps):
    """A Trial of some steps; counts them."""
    total = devices.WARM_UP + steps
    with counting.counted(total, 0, "timing", "steps") as bar:
        return devices.run_trial(
            config, source, strategy, steps, done=lambda: bar.add(1)
        )


class Choice:
    """The configuration that --config=auto stands for, as more is known.

    Attributes:
      source: Source. fault: str, why nothing can be chosen; "".
      chosen: rules.Chosen.
    """

    def __init__(self, given, strategy, free):
        """Chooses by some of the images.

        Args:
          given: as of `start`. strategy: tf.distribute.Strategy.
          free: bytes, before TensorFlow took some, or None.
        """
        self._given, self.fault, self._words = given, "", ""
        try:
            self._given, self._words = with_start(given)
            self.source = open_source(given)
            self._facts = measure(self.source, strategy)._replace(
                free=free, bank=_bank_of(self._given)
            )
            self._forecast = forecast(self._facts)
            self.again()
        except ValueError as error:
            self.fault = str(error)

    def again(self, **known):
        """Chooses by more facts."""
        self._facts = self._facts._replace(**known)
        self.chosen = rules.choose(self._facts, self._given, self._forecast)

    def keep(self, workdir):
        """Prints the choice, and writes its preset file where there is one."""
        table.print_text(f"\nChosen for {describe_facts(self._facts)}:")
        if self._words:
            table.print_text(self._words)
        table.print_text(describe(self.chosen))
        if not workdir:
            table.print_text("Pass --workdir=DIR to have it as a preset file.")
            return
        text = preset_text(self.chosen, self._facts)
        path = pathlib.Path(workdir) / records.PRESET
        path.parent.mkdir(parents=True, exist_ok=True)
        state_files.write_text(path, text)
        table.print_text(f"It is kept as --config={paths.quote(path)}")


def describe_facts(facts):
    """What was counted, in a line."""
    words = [f"{facts.images} images"]
    if facts.short_side is not None:
        words.append(f"short side {facts.short_side} px (median)")
    if facts.channels == 2 * inputs.CHANNELS["rgb"]:
        words.append("pairs of files")
    labels = f"{facts.classes} classes" if facts.classes else "no labels"
    words += [labels, f"{facts.replicas} {facts.kind} replica(s)"]
    if facts.bank:
        words.append(f"{facts.bank} labelled images for kNN")
    words.append(f"{facts.cores} core{'s' if facts.cores > 1 else ''}")
    if facts.free is not None:
        where = " a GPU" if facts.kind == "GPU" else ""
        words.append(f"{counting.format_bytes(facts.free)} free{where}")
    if facts.step_seconds is not None:
        words.append(f"{facts.step_seconds:.3g} s a step")
    return ", ".join(words)


def describe(chosen):
    """What was chosen and why: a table, a field each, and the remarks."""
    rows = {
        name or "begins with": f"{_shown(reason.value)}: {reason.words}"
        for name, reason in chosen.reasons.items()
    }
    first = max(map(len, rows)) + 2
    lines = []
    for name, words in rows.items():
        lines += textwrap.wrap(
            words,
            100,
            initial_indent=f"  {name:<{first}}",
            subsequent_indent=" " * (first + 2),
            break_on_hyphens=False,
        )
    for sentence in chosen.remarks:
        lines += textwrap.wrap(f"Note: {sentence}", 100)
    return "\n".join(lines)


def _shown(value):
    return f"{value:g}" if isinstance(value, float) else str(value)


def preset_text(chosen, facts):
    """The preset file of a choice: Python, each field with its reason."""
    values = configs.flatten(chosen.config.to_dict())
    method = values["method"]
    known = configs.flatten(configs.base(method).to_dict())
    lines = [
        f'"""Chosen by moco-tf {moco_tf.__version__} (docs/auto.md) for:',
        "",
        *textwrap.wrap(f"{describe_facts(facts)}.", _WIDTH),
        '"""',
        "",
        "from moco_tf import config as configs",
        "",
        "",
        "def get_config():",
        f'    """Begins with {chosen.preset}."""',
        f'    config = configs.base("{method}")',
    ]
    for name, value in values.items():
        if value == known[name] and name not in chosen.reasons:
            continue
        if name in ("data.source", "knn.bank", "knn.query"):
            value = specs.absolute(value)
        reason = chosen.reasons.get(name)
        if reason:
            lines += textwrap.wrap(
                reason.words,
                _WIDTH,
                initial_indent="    # ",
                subsequent_indent="    # ",
            )
        # In ASCII: names need not be text.
        lines.append(f"    config.{name} = {ascii(value)}")
    return "\n".join([*lines, "    return config", ""])
