"""The figures of a run for its report: numbers, and sentences that read them.

Sentences have a tone: good, plain, or a warning.
"""

import math

from moco_tf import config as configs
from moco_tf import counting, paths, plan
from moco_tf.evaluation import verdict
from moco_tf.monitoring import metrics_csv, warning_log
from moco_tf.reporting import published
from moco_tf.training import checkpoints

_WAITS, _STARVED = 0.05, 0.2  # of the time, in which a step waits for images
_NEAR_CHANCE = 0.02  # of the loss
NO_FIELD = "–"  # in place of a value
# Columns of the last row, and their labels. Not how often a query finds its own
# key: it is high in runs that learn nothing, and has its place among the keys.
_SHARES = {
    "top1": "training accuracy, last steps",
    "evaluated_top1": "top-1 of held-out images, last epoch",
}


def percent(share, digits=2):
    """A fraction as text."""
    return f"{100 * share:.{digits}f} %"


def progress(run):
    """How far a run is, one line."""
    if not run.rows:
        # The cached way of the linear probe logs no steps.
        return "finished" if run.result else "no figures yet"
    step, train = run.rows[-1]["step"], run.config.train
    if not run.steps_per_epoch:
        return f"step {step:,}, of {train.epochs} epochs"
    total = train.epochs * run.steps_per_epoch
    epochs = step / run.steps_per_epoch
    words = f"{epochs:.4g} of {train.epochs} epochs, step {step:,}"
    if step >= total:
        return f"{words}: finished"
    if run.result:  # of a task
        return f"{words}: stopped early, finished"
    max_steps = train.get("max_steps", 0)  # of pre-training alone
    if max_steps and step >= max_steps:
        return f"{words}: stopped there by train.max_steps"
    return f"{words} so far"


def speed(run):
    """Throughput of a run, over all its sessions.

    Returns:
      dict: images_per_second and input_wait_share, means over the time of all
      rows, and hours; {} before the first measurement.
    """
    batch = run.config.train.batch_size
    seconds = images = waited = 0.0
    for row in run.rows:
        rate = row.get("images_per_second")
        if rate:
            duration = row["steps"] * batch / rate
            seconds += duration
            images += row["steps"] * batch
            waited += duration * (row.get("input_wait_share") or 0.0)
    if not seconds:
        return {}
    return {
        "images_per_second": images / seconds,
        "input_wait_share": waited / seconds,
        "hours": seconds / 3600,
    }


def figures(run):
    """The figures that a run ends with so far.

    Returns:
      dict label -> text, in the order in which they are shown.
    """
    texts = {}
    if run.result:
        texts["top-1 of the test set"] = _interval(run.result)
    words, loss = _last_loss(run)
    if loss is not None:
        texts[f"loss, {words}"] = f"{loss:.4f}"
    chance = chance_loss(run)
    if chance is not None:
        texts["loss at chance"] = f"{chance:.4f}"
    for layer in metrics_csv.KNN_LAYERS:
        rows, values = run.column(f"knn_{layer}")
        if values:
            best = max(range(len(values)), key=values.__getitem__)
            text = percent(values[-1])
            if values[best] > values[-1]:
                epoch = run.epoch_of(rows[best])
                text += f" (best {percent(values[best])}, epoch {epoch:.4g})"
            texts[f"kNN top-1, {layer}"] = text
    for column in metrics_csv.BASELINES:
        _, values = run.column(column)
        if values:
            words = metrics_csv.words_of(column, start_words(run))
            texts[f"kNN top-1, {words}"] = percent(values[-1])
    last = run.rows[-1] if run.rows else {}
    for name, words in _SHARES.items():
        if last.get(name) is not None:
            texts[words] = percent(last[name])
    for name in ("alignment", "uniformity", "effective_rank"):
        _, values = run.column(name)
        if values:
            texts[name.replace("_", " ")] = f"{values[-1]:.4g}"
    measured = speed(run)
    if measured:
        texts["images per second"] = f"{measured['images_per_second']:,.4g}"
        texts["waiting for images"] = percent(measured["input_wait_share"])
        seconds = 3600 * measured["hours"]
        texts["time in steps"] = counting.format_duration(seconds)
    return texts


def summary(run):
    """What a run has reached, as numbers.

    Args:
      run: page.ReportedRun.

    Returns:
      dict: run, its name; command; method, None for a task; finished; epochs,
      None where they are not known; step; the last loss, and every last
      accuracy, 0..1; hours in steps; results of other commands by folder. A
      figure that a run lacks is not there. Of a verdict: verdict, its kind,
      verdict_words, and where it has them verdict_measure, verdict_step, and
      gain, gain_low and gain_high, 0..1.
    """
    last = run.rows[-1] if run.rows else {}
    per_epoch, step = run.steps_per_epoch, last.get("step", 0)
    row = {
        "run": run.name,
        "command": run.command,
        "method": run.config.get("method"),
        "finished": progress(run).endswith("finished"),
        "epochs": step / per_epoch if per_epoch else None,
        "step": step,
    }
    _, row["loss"] = _last_loss(run)
    names = [f"knn_{layer}" for layer in metrics_csv.KNN_LAYERS]
    for name in (*names, *metrics_csv.BASELINES, "probe_top1", *_SHARES):
        _, values = run.column(name)
        if values:
            row[name] = values[-1]
    if run.result:
        row["test_top1"] = run.result.top1
    row |= {f"{x.folder}_top1": x.top1 for x in run.evaluations}
    return row | _verdict_fields(verdict_of(run)) | speed(run)


def _verdict_fields(reached):
    """A verdict as entries of a summary; {} without one."""
    if not reached:
        return {}
    fields = {"verdict": reached.kind, "verdict_words": reached.words}
    if reached.gain is not None:
        fields |= {
            "verdict_measure": reached.measure,
            "verdict_step": reached.step,
            "gain": reached.gain,
            "gain_low": reached.low,
            "gain_high": reached.high,
        }
    return fields


def start_words(run):
    """What the encoder of a run was before its first step, in words."""
    return plan.start_words(run.config) if run.is_pretraining else "start"


def verdict_of(run):
    """The Verdict on a run so far; None before a measurement, or of a task."""
    if not run.is_pretraining:
        return None
    layer = run.config.knn.features
    return verdict.of_rows(run.rows, layer, f"the {start_words(run)}")


def headline(run):
    """What a run has come to, in a line that its report begins with.

    Returns:
      (tone, text); None before the first measurement, or of a task.
    """
    reached = verdict_of(run)
    if reached is None:
        return None
    layer = run.config.knn.features
    _, values = run.column(f"knn_{layer}")
    if not values:
        return reached.tone, f"{_sentence(reached.words)}."
    words = f"kNN {percent(values[-1], 1)}{_above_start(run, reached)}"
    words += _trend_words(run, layer, values)
    if reached.gain is not None:
        words += f". {_sentence(reached.words)}"
    return reached.tone, f"{words}."


def _trend_words(run, layer, values):
    """Where kNN goes at the end, and what follows if it was above the start."""
    _, start = run.column(f"start_{layer}")
    _, counted = run.column("knn_queries")
    trend = verdict.trend(run.rows, layer, int(counted[-1]) if counted else 0)
    below = bool(start) and max(values) <= start[-1]  # then best/ is the start
    return {
        1: "; still rising" + ("" if below else ": more epochs would help"),
        -1: "; falling at the end"
        + ("" if below else ": --checkpoint=best is the encoder before"),
        0: "; level at the end",
        None: "",
    }[trend]


def _sentence(words):
    return words[:1].upper() + words[1:]


def _above_start(run, outcome):
    """How far the last kNN is from the starting encoder's, or "".

    "" also where the words of a Verdict have it.
    """
    if outcome and outcome.gain is not None:
        return ""
    layer = run.config.knn.features
    _, values = run.column(f"knn_{layer}")
    _, start = run.column(f"start_{layer}")
    if not values or not start:
        return ""
    points = 100 * (values[-1] - start[-1])
    side = "above" if points > 0 else "below"
    return f", {abs(points):.1f} points {side} the {start_words(run)}"


def evaluations(run):
    """Results of other commands on the encoder of a run.

    Returns:
      dict label -> text, as `figures`.
    """
    return {
        f"{each.command} ({each.folder})": _interval(each)
        for each in run.evaluations
    }


def _interval(each):
    """The top-1 of a page.Evaluation with its interval."""
    low, high = 100 * each.low, 100 * each.high
    return f"{percent(each.top1)} ({low:.2f} to {high:.2f})"


def chance_loss(run):
    """The loss of guessing of a run, nats; None where there is none known."""
    return plan.chance_loss(run.config) if run.is_pretraining else None


def chance_levels(runs):
    """Loss at chance -> its words; runs of one queue have it in common."""
    names_of: dict[float, list] = {}
    for run in runs:
        chance = chance_loss(run)
        if chance is not None:
            near = (x for x in names_of if abs(x - chance) < 5e-4)
            names_of.setdefault(next(near, chance), []).append(run.name)
    if len(names_of) == 1:
        return {value: f"chance, {value:.3f}" for value in names_of}
    return {
        value: f"chance of {_some(names)}, {value:.3f}"
        for value, names in names_of.items()
    }


def levels_of(runs, columns, factor, unit):
    """Levels of figures that were measured before the first step.

    Args:
      runs: list of ReportedRun.
      columns: dict column -> its words; "starting encoder" among them becomes
        what that was, where it was the same in all runs.
      factor, unit: of the figures as they are shown.

    Returns:
      list of (words, value); runs that have one in common share it.
    """
    levels = []
    starts = {start_words(run) for run in runs}
    start = starts.pop() if len(starts) == 1 else "starting encoder"
    for column, words in columns.items():
        words = words.replace("starting encoder", start)
        names_of: dict[float, list] = {}
        for run in runs:
            _, values = run.column(column)
            if values:
                names_of.setdefault(factor * values[-1], []).append(run.name)
        for value, names in names_of.items():
            of = "" if len(names) == len(runs) else f" of {_some(names)}"
            shown = f"{value:.2f} {unit}" if unit else f"{value:.4g}"
            levels.append((f"{words}{of}, {shown}", value))
    return levels


def _some(names):
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} runs"


def _last_loss(run):
    """Which loss is the newest, in words, and its value; None without one."""
    for name, words in (("epoch_loss", "last epoch"), ("loss", "last steps")):
        _, values = run.column(name)
        if values:
            return words, values[-1]
    return "", None


def readings(run):
    """Sentences that read the figures of a run.

    Returns:
      list of (tone, sentence); tone is "good", "plain" or "warn".
    """
    if not run.rows and run.result:
        return [("plain", "This task has logged no steps, its result alone.")]
    if not run.rows:
        words = "This run has logged nothing yet: there are no curves."
        if path := checkpoints.latest(run.workdir):
            words = (
                f"{paths.shown(run.workdir / 'metrics.csv')} has no rows, "
                f"though there is a checkpoint ({path.name}): put a copy of "
                "the file there, else there are no curves of what was before."
            )
        return [("warn", words)]
    knn = _read_knn(run) if run.is_pretraining else []
    sentences = [*_read_loss(run), *knn, *_read_speed(run)]
    unreadable = sum(row.get("unreadable") or 0 for row in run.rows)
    if unreadable:
        words = (
            f"{unreadable:,} samples could not be read and were replaced; "
            "unreadable.csv in the workdir names them."
        )
        sentences.append(("warn", words))
    for notice in warning_log.read(run.workdir / "warnings.csv"):
        words = f"At step {notice['step']:,}: {notice['text']}"
        sentences.append(("warn", words))
    return sentences


def _read_loss(run):
    """The sentence about the loss, with its tone; [] without a loss."""
    chance = chance_loss(run)
    name, loss = _last_loss(run)
    if loss is None:
        return []
    kind = "mean loss" if name == "last epoch" else "loss"
    words = f"The {kind} of the {name} is {loss:.3f}"
    if not math.isfinite(loss):
        return [("warn", "The loss is not a number: the run has diverged.")]
    if chance is None:
        no_chance = "; this method has no loss of guessing"
        words += no_chance if run.is_pretraining else ""
        return [("plain", f"{words}.")]
    words += f"; features that tell nothing give {chance:.3f}."
    if abs(loss - chance) < _NEAR_CHANCE * chance:
        words += (
            " The loss is at chance: the run has just begun, or the encoder "
            "learns nothing."
        )
        return [("warn", words)]
    if loss > chance:
        return [("plain", f"{words} Above chance is usual early in a run.")]
    return [("good", words)]


def _read_knn(run):
    """The sentence about kNN, and where it stands beside the published run."""
    layer = run.config.knn.features
    rows, values = run.column(f"knn_{layer}")
    if not values:
        words = (
            "kNN has not been measured: it needs knn.bank and knn.query, and "
            "comes at the end of an epoch."
        )
        return [("plain", words)]
    epoch, last = run.epoch_of(rows[-1]), 100 * values[-1]
    when = f"epoch {epoch:.4g}"
    if not run.steps_per_epoch:
        when = f"step {rows[-1]['step']:,}"
    words = f"kNN ({layer}) classifies {last:.2f} % after {when}."
    if not published.is_cifar10(run.config) or not run.steps_per_epoch:
        return [("plain", words)]
    low, middle, high = (line[-1] for line in published.band("knn", epoch)[1:])
    position = (
        "inside"
        if low <= last <= high
        else ("above" if last > high else "below")
    )
    words += (
        f" The published run had {middle:.2f} % at that epoch; this one is "
        f"{position} the band around it."
    )
    changed = [name for name, _, _ in published.departures(run.config)]
    if changed:
        words += f" It differs from it in {', '.join(changed)}."
        return [("plain", words)]
    return [("warn" if position == "below" else "good", words)]


def closing(run, export, report):
    """The last line of a finished run: what it reached, and how to go on.

    Args:
      run: page.ReportedRun of a pre-training.
      export: str, the command that exports its encoder.
      report: str, the path of its report.
    """
    reached = f"Finished: {progress(run).removesuffix(': finished')}"
    outcome = verdict_of(run)
    layer = run.config.knn.features
    _, values = run.column(f"knn_{layer}")
    if values:
        reached = f"Finished: kNN classifies {percent(values[-1])}"
        reached += _above_start(run, outcome)
        others = []
        for column in ("knn_pixels", "knn_chance"):
            _, known = run.column(column)
            words = metrics_csv.words_of(column)
            others += [f"{words} {percent(x)}" for x in known[-1:]]
        reached += f" ({', '.join(others)})" if others else ""
    if outcome and outcome.gain is not None:
        reached += f". {_sentence(outcome.words)}"
    if outcome and outcome.kind == verdict.KEPT and not outcome.is_last:
        export += " --checkpoint=best"
    use = f" To use the encoder: {export}."
    if outcome and outcome.kind == verdict.START:
        use = ""
    return f"{reached}.{use} Report: {report}"


def _read_speed(run):
    """The sentence about the speed; [] before the first measurement."""
    measured = speed(run)
    if not measured:
        return []
    share = measured["input_wait_share"]
    words = (
        f"{measured['images_per_second']:,.4g} images per second; steps waited "
        f"{percent(share, 1)} of the time for images."
    )
    if share < _WAITS:
        return [("good", f"{words} The bottleneck is the step itself.")]
    if share < _STARVED:
        return [("plain", f"{words} The input keeps up, but hardly.")]
    words += (
        " The bottleneck is the input: pass --config.data.threads=0 (all "
        "cores), keep the images on a faster disk, or decode them once with "
        "the command prepare."
    )
    return [("warn", words)]


def differences(runs):
    """Fields of the configurations that differ between runs.

    Returns:
      list of (field, [value of each run]); NO_FIELD for a run of another method
      or command, which has no such field.
    """
    flat = [configs.flatten(run.config.to_dict()) for run in runs]
    names = dict.fromkeys(name for values in flat for name in values)
    rows = [
        (name, [values.get(name, NO_FIELD) for values in flat])
        for name in names
    ]
    if len({run.command for run in runs}) > 1:
        rows.insert(0, ("command", [run.command for run in runs]))
    return [(name, row) for name, row in rows if row.count(row[0]) < len(row)]
