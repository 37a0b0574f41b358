"""The figures of a run for its report: numbers, and sentences that read them.

Sentences have a tone: good, plain, or a warning.
"""

import math

from moco_tf import config as configs
from moco_tf import plan
from moco_tf.monitoring import health, metrics_csv
from moco_tf.monitoring import progress as progress_lib
from moco_tf.reporting import published

_WAITS, _STARVED = 0.05, 0.2  # of the time, in which a step waits for images
_NEAR_CHANCE = 0.02  # of the loss


def percent(share, digits=2):
    """A fraction as text."""
    return f"{100 * share:.{digits}f} %"


def progress(run):
    """How far a run is, one line."""
    if not run.rows:
        return "no figures yet"
    step, train = run.rows[-1]["step"], run.config.train
    if not run.steps_per_epoch:
        return f"step {step:,}, in the first of {train.epochs} epochs"
    total = train.epochs * run.steps_per_epoch
    epochs = step / run.steps_per_epoch
    words = f"{epochs:.4g} of {train.epochs} epochs, step {step:,}"
    if step >= total:
        return f"{words}: finished"
    if train.max_steps and step >= train.max_steps:
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
    _, losses = run.column("epoch_loss")
    if losses:
        texts["loss, last epoch"] = f"{losses[-1]:.4f}"
    elif run.rows:
        texts["loss, last steps"] = f"{run.rows[-1]['loss']:.4f}"
    chance = plan.chance_loss(run.config)
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
    top1 = run.rows[-1].get("instance_top1") if run.rows else None
    if top1 is not None:
        texts["instance accuracy, last steps"] = percent(top1)
    for name in ("alignment", "uniformity", "effective_rank"):
        _, values = run.column(name)
        if values:
            texts[name.replace("_", " ")] = f"{values[-1]:.4g}"
    measured = speed(run)
    if measured:
        texts["images per second"] = f"{measured['images_per_second']:,.4g}"
        texts["waiting for images"] = percent(measured["input_wait_share"])
        seconds = 3600 * measured["hours"]
        texts["time in steps"] = progress_lib.format_duration(seconds)
    return texts


def evaluations(run):
    """Results of other commands on the encoder of a run.

    Returns:
      dict label -> text, as `figures`.
    """
    return {
        f"{each.command} ({each.folder})": (
            f"{percent(each.top1)} ({100 * each.low:.2f} to "
            f"{100 * each.high:.2f})"
        )
        for each in run.evaluations
    }


def readings(run):
    """Sentences that read the figures of a run.

    Returns:
      list of (tone, sentence); tone is "good", "plain" or "warn".
    """
    if not run.rows:
        words = "This run has logged nothing yet: there are no curves."
        return [("warn", words)]
    sentences = [_read_loss(run), *_read_knn(run), *_read_speed(run)]
    unreadable = sum(row.get("unreadable") or 0 for row in run.rows)
    if unreadable:
        words = (
            f"{unreadable:,} samples could not be read and were replaced; "
            "unreadable.csv in the workdir names them."
        )
        sentences.append(("warn", words))
    for notice in health.read(run.workdir / "warnings.csv"):
        words = f"At step {notice['step']:,}: {notice['text']}"
        sentences.append(("warn", words))
    return sentences


def _read_loss(run):
    """The sentence about the loss, with its tone."""
    chance = plan.chance_loss(run.config)
    _, losses = run.column("epoch_loss")
    words = "The mean loss of the last epoch"
    if not losses:
        losses, words = [run.rows[-1]["loss"]], "The loss of the last steps"
    loss = losses[-1]
    words += f" is {loss:.3f}"
    if not math.isfinite(loss):
        return "warn", "The loss is not a number: the run has diverged."
    if chance is None:
        return "plain", f"{words}; this method has no loss of guessing."
    words += f"; features that tell nothing give {chance:.3f}."
    if abs(loss - chance) < _NEAR_CHANCE * chance:
        return "warn", (
            f"{words} The loss is at chance: the run has just begun, or the "
            "encoder learns nothing."
        )
    if loss > chance:
        return "plain", f"{words} Above chance is usual early in a run."
    return "good", words


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
    words = f"kNN ({layer}) classifies {last:.2f} % after epoch {epoch:.4g}."
    if not published.is_cifar10(run.config):
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
      list of (field, [value of each run]).
    """
    flat = [configs.flatten(run.config.to_dict()) for run in runs]
    return [
        (name, [values[name] for values in flat])
        for name in flat[0]
        if any(values[name] != flat[0][name] for values in flat)
    ]
