"""Whether a configuration fits its data and the weights it starts from."""

import math

import numpy as np

from moco_tf import config as configs
from moco_tf import cores, paths, plan
from moco_tf.doctor import table
from moco_tf.evaluation import knn
from moco_tf.training import checkpoints
from moco_tf.weights import conversion, origin, starting

_RATE, _BATCH = 0.03, 256  # the published pair (v1, section 4)
_QUEUE_SHARE = 10  # the queue holds a tenth of the images at most
_FACTOR = 1.5  # that a rate may differ from the rule
_BATCH_SHARE = 10  # a batch is a tenth of the images at most, where that is
GROUP = 8  # images of a BatchNorm group at least
_WIDE = 16  # that it has where there are enough
_MEMORIES = 3  # memories of the key encoder that a run lasts at least
_LOWEST = 0.9  # momentum that is advised at least; then more epochs
_LEAST = 32  # pixels of a view: networks halve a picture five times
_LARGE = 2_000_000  # pixels, above which decoding takes most of the time


def size_rows(config, figures):
    """Rows about the sizes of images, from a scan.Scan of them."""
    short, pixels = median_sizes(figures)
    return [] if short is None else [size_row(config, short, pixels)]


def median_sizes(figures):
    """The medians of the short side and of the pixels of a scan.Scan.

    Returns:
      int, float; None, None where no image can be read.
    """
    readable = figures.readable
    if not len(readable):
        return None, None
    height = figures.columns["height"][readable].astype(np.int64)
    width = figures.columns["width"][readable].astype(np.int64)
    short = int(np.median(np.minimum(height, width)))
    return short, float(np.median(height * width))


def fitting_size(short):
    """The side of views for images of a short side, a multiple of 32."""
    return max(_LEAST, short // _LEAST * _LEAST)


def size_row(config, short, pixels):
    """The row about views, for images of a median short side and pixels."""
    size = config.data.image_size
    words = f"views of {size} px from images of {short} px (median short side)"
    if short < size <= _LEAST:
        words += "; encoders take no smaller ones"
        return table.Row("image size", words)
    if short < size:
        fitting = fitting_size(short)
        remedy = "Views are enlarged: smaller ones cost less and show as much."
        change = {"data.image_size": fitting} if fitting < size else {}
        if change and config.model.input == "grid":
            change = {}  # its patches would have to fit
        if change:
            change |= small_views_for(config, fitting)
        return table.Row("image size", words, table.WARN, remedy, change)
    if pixels > _LARGE and short > 4 * size:
        remedy = (
            "Most time goes into decoding. Resize the files once, to a short "
            f"side of about {2 * size} px."
        )
        words += f", {pixels / 1e6:.1f} million pixels"
        return table.Row("image size", words, table.WARN, remedy)
    return table.Row("image size", words)


def small_views_for(config, size):
    """The override of small views that goes with another size of the large."""
    small = config.data.small_views and config.data.small_size
    if not small or small < size:
        return {}
    return {"data.small_size": max(8, size * small // config.data.image_size)}


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
        _groups(config, replicas, count, rate_per_image),
        _length(config, count),
    ]
    if plan.queues_keys(config):
        rows.insert(0, _queue(config, count, rate_per_image, replicas))
    return rows


def precision_rows(config, kind):
    """A row where the devices are slow in the configuration's precision.

    Args:
      config: ConfigDict. kind: "CPU" or "GPU", of the devices.
    """
    precision = config.train.precision
    if kind != "CPU" or not cores.lack_kernels_for(precision):
        return []
    words = f"{precision} has no fast kernels on this processor"
    remedy = "float32 is faster here (docs/performance.md)."
    change = {"train.precision": "float32"}
    return [table.Row("precision", words, table.WARN, remedy, change)]


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


def batch_for(config, count, most, replicas):
    """The batch, and the BatchNorm groups in it, for so many images.

    Args:
      config: ConfigDict, whose groups are not exceeded where that can be.
      count: int, N, images. most: int, of the batch. replicas: int.

    Returns:
      batch, groups: int; None, None where the images are too few.
    """
    wanted = max(_power_of_two(most), 2 * GROUP)
    if config.model.sync_bn:
        groups, unit = 1, replicas
    else:
        unit = replicas * config.train.micro_batches
        least = unit
        if "shuffle" in config[config.method] and unit == 1:
            least = 2  # in one group a query knows its key
        groups = least
        while (
            2 * groups <= config.model.bn_groups
            and wanted // (2 * groups) >= _WIDE
        ):
            groups *= 2
        unit = groups
    share = max(_power_of_two(wanted // unit), 1 if groups < unit else GROUP)
    while share > 2 and share * unit > count:
        share //= 2
    if share * unit > count or share * unit < 2 * groups:
        return None, None
    return share * unit, groups


def usual_batch(count, most):
    """A batch of so many images: a tenth of them, and the usual at most."""
    return min(most, _power_of_two(count // _BATCH_SHARE))


def batch_changes(config, count, most, replicas, rate_per_image=None):
    """The overrides of another batch, and of all that goes with it.

    Args:
      config, count, most, replicas: as of `batch_for`.
      rate_per_image: as of `rate_for`.

    Returns:
      dict "section.field" -> value; empty where no such batch can be.
    """
    batch, groups = batch_for(config, count, most, replicas)
    if batch is None:
        return {}
    change = {"train.batch_size": batch, "model.bn_groups": groups}
    change |= rate_for(config, batch, rate_per_image)
    if plan.queues_keys(config):
        section = config[config.method]
        keys = batch * (2 if section.get("symmetric", False) else 1)
        queue = max(section.queue_size // keys, 1) * keys
        change[f"{config.method}.queue_size"] = queue
    return _differing(config, change)


def _differing(config, change):
    """The overrides that are none yet."""
    known = configs.flatten(config.to_dict())
    return {name: x for name, x in change.items() if known[name] != x}


def _small_data(config, count, replicas):
    most = usual_batch(count, config.train.batch_size)
    return table.Row(
        "batch",
        f"a batch of {config.train.batch_size} from {count} images",
        table.FAIL,
        "A batch must not be larger than the data set: use a smaller batch or "
        "more images.",
        batch_changes(config, count, most, replicas),
    )


def _queue(config, count, rate_per_image, replicas):
    section = config[config.method]
    size = section.queue_size
    words = f"{size} keys from {count} images"
    if section.mask_same_image and size <= count:
        words += ", none of the query's own image"
        return table.Row("queue", words)
    if not is_crowded(config, count):
        return table.Row("queue", words)
    fitting = queue_for(config, count)
    field = f"{config.method}.queue_size"
    change = {field: fitting} if fitting < size else {}
    remedy = (
        "A queue of more than a tenth of the images holds older keys of the "
        "batch's own images, as negatives."
    )
    if fitting * _QUEUE_SHARE > count and fitting <= count:
        # A step's keys are more than a tenth of the images.
        change[f"{config.method}.mask_same_image"] = True
        remedy += (
            " Leave these out (mask_same_image), or lower the batch, then the "
            "queue."
        )
    elif fitting > count:
        # A step's keys are more than all images.
        most = usual_batch(count, config.train.batch_size)
        change = batch_changes(config, count, most, replicas, rate_per_image)
        remedy += " Lower the batch, then the queue."
    change = _differing(config, change)
    return table.Row("queue", words, table.WARN, remedy, change)


def is_crowded(config, count):
    """Whether a queue holds more than a tenth of the images."""
    return config[config.method].queue_size * _QUEUE_SHARE > count


def queue_for(config, count):
    """The keys that a queue may hold of so many images: a tenth of these.

    A step must fit in: the batch, twice that when symmetric. A multiple of
    these, as the published code has it.
    """
    section = config[config.method]
    keys = config.train.batch_size
    keys *= 2 if section.get("symmetric", False) else 1
    most = max(_power_of_two(count // _QUEUE_SHARE), keys)
    return min(most, max(section.queue_size, keys)) // keys * keys


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


def _groups(config, replicas, count, rate_per_image):
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
        if batch < 2 * better:
            better = 1
        change = _differing(config, {"model.bn_groups": better})
        remedy = (
            "In one group a query and its key share their batch statistics, "
            "and the network can cheat: use two groups or more."
        )
        return table.Row("batch norm", words, table.WARN, remedy, change)
    if size < GROUP:
        parts = replicas * config.train.micro_batches  # each has its groups
        fewer = [n for n in range(parts, groups, parts) if groups % n == 0]
        large = [n for n in fewer if n > 1 and batch // n >= GROUP]
        change = {"model.bn_groups": max(large)} if large else {}
        needed = max(parts, 2 if "shuffle" in config[config.method] else 1)
        if (
            not change and 2 * needed * GROUP <= count
        ):  # with keys of both views
            most = max(batch, needed * GROUP)
            change = batch_changes(
                config, count, most, replicas, rate_per_image
            )
        remedy = (
            f"Statistics of fewer than {GROUP} images are noise: use "
            + ("fewer groups or " if fewer else "")
            + ("fewer devices or " if replicas > 1 else "")
            + "a larger batch."
        )
        return table.Row("batch norm", words, table.WARN, remedy, change)
    return table.Row("batch norm", words)


def _length(config, count):
    of_epoch, _, steps = plan.count_steps(config, count)
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
    if steps * (1 - momentum) >= _MEMORIES - 1e-6:
        return table.Row("length", words)
    fitting = 1 - _MEMORIES / steps if steps > _MEMORIES else 0
    remedy = (
        "The run ends before the key encoder has left its first weights: "
        "train longer, or lower the momentum."
    )
    # Down, so that the rule holds of what is left.
    change = {field: max(math.floor(1e4 * fitting + 1e-6) / 1e4, _LOWEST)}
    if fitting < _LOWEST and not config.train.max_steps:
        epochs = math.ceil(_MEMORIES / (1 - _LOWEST) / of_epoch)
        change["train.epochs"] = max(epochs, config.train.epochs)
    change = _differing(config, change)
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
        votes = votes_row(config, _count_labelled(bank))
        if votes.overrides:
            return votes
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


def start_row(config, workdir=""):
    """A row about the weights that `model.init` names.

    Args:
      config: ConfigDict, with such a text. workdir: of the planned run, or "".

    Side effects: those of origin.read.
    """
    path = checkpoints.latest(workdir) if workdir else None
    if path is not None:
        words = f"the run goes on from {path.name}: model.init is not read"
        return table.Row("start", words)
    try:
        weights = origin.read(config.model.init, config.method)
        method = conversion.make_method(config)
        start = starting.start(weights, method, config)
    except (ValueError, OSError) as error:
        return table.Row("start", str(error), table.FAIL)
    name = paths.shown(config.model.init)
    words = (
        f"{name}, {weights.kind}: {start.taken_words()}; head {start.head}; "
        f"{len(start.left_out)} tensors left out, {len(start.new)} new"
    )
    notes = [f"{note[0].upper()}{note[1:]}." for note in start.notes]
    return table.Row("start", words, table.OK, " ".join(notes))


def votes_row(config, bank):
    """A row about the neighbours that vote, of `bank` labelled images."""
    k = config.knn.k
    words = f"{k} neighbours vote, of {bank} labelled images in knn.bank"
    if k <= bank or not bank:
        return table.Row("kNN", words)
    remedy = "Let fewer vote (knn.k), or name more labelled images."
    change = {"knn.k": votes_for(k, bank)}
    return table.Row("kNN", words, table.FAIL, remedy, change)


def votes_for(k, bank):
    """Neighbours that vote: k, but a tenth of `bank` labelled images."""
    return max(1, min(k, bank // 10))


def count_bank(config):
    """Labelled images of knn.bank; 0 where there is none, or none opens."""
    if not config.knn.bank:
        return 0
    try:
        return _count_labelled(plan.open_source(config, config.knn.bank))
    except ValueError:
        return 0  # `knn_row` says why


def _count_labelled(source):
    if source.labels is None:
        return 0
    return int(np.count_nonzero(np.asarray(source.labels) >= 0))


def _power_of_two(number):
    """The largest power of two up to a number of at least 1."""
    return 1 << max(int(number), 1).bit_length() - 1
