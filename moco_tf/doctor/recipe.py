"""Whether a configuration fits the data that it is to be trained on."""

import math

import numpy as np

from moco_tf import plan
from moco_tf.doctor import table
from moco_tf.evaluation import knn

_RATE, _BATCH = 0.03, 256  # the published pair (v1, section 4)
_QUEUE_SHARE = 10  # the queue holds a tenth of the images at most
_FACTOR = 1.5  # that a rate may differ from the rule
_GROUP = 8  # images of a BatchNorm group at least
_MEMORIES = 3  # memories of the key encoder that a run lasts at least
_LARGE = 2_000_000  # pixels, above which decoding takes most of the time


def size_rows(config, figures):
    """Rows about the sizes of images, from a scan.Scan of them."""
    readable = figures.readable
    if not len(readable):
        return []
    height = figures.columns["height"][readable].astype(np.int64)
    width = figures.columns["width"][readable].astype(np.int64)
    short = int(np.median(np.minimum(height, width)))
    pixels = float(np.median(height * width))
    size = config.data.image_size
    words = f"views of {size} px from images of {short} px (median short side)"
    if short < size:
        # Of 32, as networks halve a picture five times.
        fitting = max(32, short // 32 * 32)
        remedy = "Views are enlarged: smaller ones cost less and show as much."
        change = {"data.image_size": fitting} if fitting < size else {}
        if change and config.model.input == "grid":
            change = {}  # its patches would have to fit
        small = config.data.small_views and config.data.small_size
        if change and small >= fitting:
            change["data.small_size"] = max(8, fitting * small // size)
        return [table.Row("image size", words, table.WARN, remedy, change)]
    if pixels > _LARGE and short > 4 * size:
        remedy = (
            "Most time goes into decoding. Resize the files once, to a short "
            f"side of about {2 * size} px."
        )
        words += f", {pixels / 1e6:.1f} million pixels"
        return [table.Row("image size", words, table.WARN, remedy)]
    return [table.Row("image size", words)]


def training_rows(config, count, rate_per_image=None, replicas=1):
    """Rows about batch, queue, rate, groups and length of a run.

    Args:
      config: ConfigDict. count: int, N, images of the source.
      rate_per_image: float, learning rate / batch size in the configuration's
        file, as its author chose them; None = not known.
      replicas: int, of the run; batch and groups divide among them.
    """
    batch = config.train.batch_size
    if count < batch:
        return [_small_data(config, count, replicas)]
    rows = [
        _rate(config, rate_per_image),
        _groups(config, replicas),
        _length(config, count),
    ]
    if plan.queues_keys(config):
        rows.insert(0, _queue(config, count))
    return rows


def rate_for(config, batch, rate_per_image):
    """The override that keeps rate and batch in step, where one is needed.

    Args:
      config: ConfigDict. batch: int, another one.
      rate_per_image: learning rate / batch size of the configuration's file;
        None: of the run.

    Returns:
      dict; empty where the run itself scales its rate, or no rule is known.
    """
    if config.optimizer.scaling != "none" or config.optimizer.name != "sgd":
        return {}
    if not rate_per_image:
        rate_per_image = (
            config.optimizer.learning_rate / config.train.batch_size
        )
    return {"optimizer.learning_rate": rate_per_image * batch}


def _small_data(config, count, replicas):
    # Those of synchronised statistics are one, on any number of replicas.
    groups = max(config.model.bn_groups, replicas)
    change = {}
    if count >= 2 * groups:
        batch = max(_power_of_two(count // 10), 2 * groups) // groups * groups
        change = {"train.batch_size": batch} | rate_for(config, batch, None)
    return table.Row(
        "batch",
        f"a batch of {config.train.batch_size} from {count} images",
        table.FAIL,
        "A batch must not be larger than the data set: use a smaller batch or "
        "more images.",
        change,
    )


def _queue(config, count):
    section = config[config.method]
    size = section.queue_size
    words = f"{size} keys from {count} images"
    if size * _QUEUE_SHARE <= count:
        return table.Row("queue", words)
    # A step must fit: the batch, twice that when symmetric.
    keys = config.train.batch_size
    keys *= 2 if section.get("symmetric", False) else 1
    fit_size = max(_power_of_two(count // _QUEUE_SHARE), keys)
    field = f"{config.method}.queue_size"
    change = {field: fit_size} if fit_size < size else {}
    remedy = (
        "A queue of more than a tenth of the images holds older keys of the "
        "batch's own images, as negatives."
    )
    if not change:
        remedy += " Lower the batch, then the queue."
    return table.Row("queue", words, table.WARN, remedy, change)


def _rate(config, rate_per_image):
    batch, rate = config.train.batch_size, config.optimizer.learning_rate
    words = f"{rate:g} for a batch of {batch}"
    if config.optimizer.scaling != "none":
        words += f", scaled with the batch ({config.optimizer.scaling})"
        return table.Row("learning rate", words)
    if config.optimizer.name != "sgd":
        words += f", {config.optimizer.name}: no rule is known"
        return table.Row("learning rate", words)
    rule = _RATE * batch / _BATCH
    words += f"; the linear rule {_RATE} x batch / {_BATCH} gives {rule:.3g}"
    of_file = None if rate_per_image is None else rate_per_image * batch
    if of_file is not None and math.isclose(of_file, rate, rel_tol=1e-6):
        return table.Row("learning rate", f"{words}; in step with the file")
    if rule / _FACTOR <= rate <= rule * _FACTOR:
        return table.Row("learning rate", words)
    if of_file is not None:
        rule = of_file
        words += f", the pair in the file {rule:.3g}"
    remedy = "Scale the rate with the batch."
    change = {"optimizer.learning_rate": float(f"{rule:.4g}")}
    return table.Row("learning rate", words, table.WARN, remedy, change)


def _groups(config, replicas):
    batch, groups = config.train.batch_size, config.model.bn_groups
    size = batch // groups
    if config.model.norm != "batch":
        words = f"none: the encoder has {config.model.norm} norm"
        return table.Row("batch norm", words)
    if config.model.sync_bn:
        words = f"over the whole batch of {batch} images"
        return table.Row("batch norm", words)
    words = f"{groups} BatchNorm groups of {size} images"
    if groups == 1 and "shuffle" in config[config.method]:
        better = next((n for n in (8, 4, 2) if batch % n == 0), 1)
        change = {"model.bn_groups": better} if batch >= 2 * better > 2 else {}
        remedy = (
            "In one group a query and its key share their batch statistics, "
            "and the network can cheat: use two groups or more."
        )
        return table.Row("batch norm", words, table.WARN, remedy, change)
    if size < _GROUP:
        parts = replicas * config.train.micro_batches  # each has its groups
        fewer = [n for n in range(parts, groups, parts) if groups % n == 0]
        large = [n for n in fewer if n > 1 and batch // n >= _GROUP]
        change = {"model.bn_groups": max(large)} if large else {}
        remedy = (
            f"Statistics of fewer than {_GROUP} images are noise: use "
            + ("fewer groups or " if fewer else "")
            + "a larger batch."
        )
        return table.Row("batch norm", words, table.WARN, remedy, change)
    return table.Row("batch norm", words)


def _length(config, count):
    *_, steps = plan.count_steps(config, count)
    words = f"{steps} steps in {config.train.epochs} epochs"
    if not plan.queues_keys(config):
        return table.Row("length", words)
    # The key encoder of the queued keys must move, but slowly.
    momentum = config[config.method].momentum
    field = f"{config.method}.momentum"
    if momentum == 1:
        remedy = "With momentum 1 the key encoder never moves: use 0.99."
        change = {field: 0.99}
        return table.Row("length", words, table.WARN, remedy, change)
    memory = 1 / (1 - momentum)
    words += f"; the key encoder follows over about {memory:.0f}"
    if steps >= _MEMORIES * memory:
        return table.Row("length", words)
    fitting = 1 - _MEMORIES / steps if steps > _MEMORIES else 0
    remedy = (
        "The run ends before the key encoder has left its first weights: "
        "train longer, or lower the momentum."
    )
    change = {field: float(f"{max(fitting, 0.9):.4g}")}
    return table.Row("length", words, table.WARN, remedy, change)


def knn_row(config):
    """A row about the labelled sources of kNN."""
    if not config.knn.bank and not config.knn.query:
        remedy = "Name labelled images in knn.bank and knn.query, if there are."
        words = "no labelled images: only the loss will tell how it goes"
        return table.Row("kNN", words, table.OK, remedy)
    try:
        bank = plan.open_source(config, config.knn.bank)
        query = plan.open_source(config, config.knn.query)
        bank, query = knn.labelled(bank, query, [config.knn.k])
        knn.check(bank, query, config.knn.k)
    except ValueError as error:
        words, remedy = str(error), "Correct knn.bank, knn.query or knn.k."
        return table.Row("kNN", words, table.FAIL, remedy)
    numbers = f"{len(bank)} and {len(query)} labelled images"
    if words := knn.overlap_words(bank, query):
        words, _, remedy = words.partition(". ")
        return table.Row("kNN", f"{numbers}; {words}", table.WARN, remedy)
    return table.Row("kNN", numbers)


def _power_of_two(number):
    """The largest power of two up to a number of at least 1."""
    return 1 << max(int(number), 1).bit_length() - 1
