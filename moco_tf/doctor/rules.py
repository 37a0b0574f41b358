"""The fields of a run from what is counted: the rules of docs/auto.md.

Everything here is a function of its arguments: no file, device or clock is
asked, so the same facts give the same configuration. `choose` begins with a
preset, `settle` with any configuration; both end at one that the doctor's rows
have nothing to say of, where there is one.
"""

import math
from typing import Any, NamedTuple

import ml_collections

from moco_tf import config as configs
from moco_tf import counting, plan
from moco_tf.doctor import recipe, resources

FEW = 10_000  # images, below which weights of others are advised
_SMALL = 64  # pixels: the largest views of the CIFAR stem, and of CPUs
_LARGE = 224  # pixels, as published
_SEEN = 10_000_000  # images that a run sees: the demo's 200 x 50,000
_EPOCHS = (200, 800)  # of the published runs, the fewest and the most
_QUICK = 80_000  # images that a run sees at least: the quickstart's 4 x 20,000
_HOURS = {"CPU": 1.0, "GPU": 48.0}  # that steps may take
_EPOCH = 156  # steps of the quickstart's epoch
# Steps in which the quickstart's rate and momentum rise.
_RISING = {
    "schedule.warmup_epochs": _EPOCH,
    "moco.momentum_warmup_epochs": 624,
}
_ROUNDS = 64  # of changes that ask for others; far more than there are


class Facts(NamedTuple):
    """What the rules look at.

    Attributes:
      images: int, N of the source.
      short_side: int, pixels, the median; None: no image could be read.
      pixels: float, of an image, the median; None as above.
      channels: int, of the source: 3, or 6 of pairs.
      classes: int, that labels tell apart; 0 without labels.
      bank: int, labelled images of knn.bank; 0 without.
      kind: "CPU" or "GPU". replicas: int, of the run; here: of this machine.
      cores: int. free: bytes of a device (of the host, of CPUs), or None.
      stored: bytes of images that lie in the host's memory.
      half: precision of 16 bits that the devices multiply faster, or "".
      step_seconds: float, of a step of the configuration that the other facts
        give; None: not timed.
    """

    images: int
    short_side: int | None = None
    pixels: float | None = None
    channels: int = 3
    classes: int = 0
    bank: int = 0
    kind: str = "CPU"
    replicas: int = 1
    here: int = 1
    cores: int = 1
    free: int | None = None
    stored: int = 0
    half: str = ""
    step_seconds: float | None = None


class Reason(NamedTuple):
    """Why a field has its value."""

    value: Any
    words: str


class Chosen(NamedTuple):
    """A configuration that the rules have made.

    Attributes:
      config: ConfigDict, locked. reasons: dict "section.field" -> Reason, in
        the order in which fields were set. preset: name that it began with.
      remarks: list of str, sentences on what no field can mend.
    """

    config: ml_collections.ConfigDict
    reasons: dict
    preset: str
    remarks: list


class _Draft:
    """A configuration on its way.

    Attributes:
      values: dict "section.field" -> value. given: names that stay.
      reasons: as of Chosen.
    """

    def __init__(self, config, given):
        self.values = configs.flatten(config.to_dict())
        self.given = frozenset(given)
        self.reasons = {}

    @property
    def config(self):
        """The ConfigDict, locked."""
        return configs.build(self.values)

    def set(self, name, value, words):
        """Sets a field, unless it was given or the method has none such."""
        if name in self.given or name not in self.values:
            return
        self.values[name] = value
        self.reasons[name] = Reason(value, words)


def preset_for(facts):
    """The preset to begin with, and why."""
    if facts.channels == 6:
        return "cmc_imagenet", "pairs of files: CMC takes two sensors"
    if facts.kind == "CPU":
        return "quickstart", "CPUs: a network that they train in an hour"
    if _view_size(facts) <= _SMALL:
        return "moco_cifar10", "small images: the authors' CIFAR demo"
    return "moco_v2_imagenet", "photographs: MoCo v2 as published"


def choose(facts, given, forecast, start=None):
    """Makes the configuration of a run.

    Args:
      facts: Facts.
      given: dict "section.field" -> text of those that stay as typed.
      forecast: function: ConfigDict -> bytes (resources.Forecast).
      start: name of the preset; None: by `preset_for`.

    Returns:
      Chosen.

    Raises:
      ValueError: for a field that is given and cannot be, or images that are
        too few for any.
    """
    preset, words = preset_for(facts)
    draft = _Draft(configs.load(start or preset, given), given)
    for name in ("knn.bank", "knn.query"):
        if preset == "quickstart" and name not in given:
            draft.values[name] = ""
    _choose_views(draft, facts)
    _choose_batch(draft, facts)
    if facts.half:
        draft.set("train.precision", facts.half, "twice as fast here, or near")
    if facts.classes > 1:
        words_of_probe = f"{facts.classes} classes: their accuracy as it learns"
        draft.set("probe.online", True, words_of_probe)
    _choose_votes(draft, facts)
    rate = rate_of(start or preset)
    momentum = f"{draft.values['method']}.momentum"
    of_preset = draft.values[momentum]
    _settle(draft, facts, forecast, rate)
    _choose_length(draft, facts)
    if draft.reasons.pop(momentum, None):  # it was for another length
        draft.values[momentum] = of_preset
    _settle(draft, facts, forecast, rate)
    plan.check(draft.config, facts.replicas)
    reasons = {"": Reason(preset, words)} | draft.reasons
    return Chosen(draft.config, reasons, preset, remarks(draft.config, facts))


def _choose_votes(draft, facts):
    """How many neighbours vote, where few images have labels."""
    k = draft.values["knn.k"]
    votes = recipe.votes_for(k, facts.bank)
    if facts.bank and votes < k:
        words = f"a tenth of {facts.bank} labelled images"
        draft.set("knn.k", votes, words)


def rate_of(preset):
    """Learning rate / batch size in a preset, as its author chose them."""
    config = configs.load(preset)
    return config.optimizer.learning_rate / config.train.batch_size


def _view_size(facts):
    """The side of views."""
    most = _SMALL if facts.kind == "CPU" and facts.channels == 3 else _LARGE
    if facts.short_side is None:
        return most
    return min(most, recipe.fitting_size(facts.short_side))


def _choose_views(draft, facts):
    """Size of views, and the stem that goes with it."""
    size = _view_size(facts)
    words = "the size could not be read"
    if facts.short_side is not None:
        words = f"images have {facts.short_side} px (median short side)"
    if facts.kind == "CPU" and size == _SMALL:
        words += "; CPUs are too slow for more"
    draft.set("data.image_size", size, words)
    if facts.channels == 6:
        draft.set("model.input", "pair", "two files a sample")
        return
    size = draft.values["data.image_size"]
    if size <= 32 or (facts.kind == "GPU" and size <= _SMALL):
        words = "views are small: a first layer that leaves them their pixels"
        draft.set("model.stem", "cifar", words)


def _choose_batch(draft, facts):
    """Batch, groups, queue and rate, before memory is looked at."""
    config, count = draft.config, facts.images
    usual = config.train.batch_size
    most = recipe.usual_batch(count, usual)
    if "train.batch_size" in draft.given:
        most = usual
    queue = f"{config.method}.queue_size"
    if queue in draft.given and plan.queues_keys(config):
        section = config[config.method]
        keys = section.queue_size // (2 if section.symmetric else 1)
        most = min(most, max(keys, 1))
    batch, groups = recipe.batch_for(config, count, most, facts.replicas)
    if batch is None:
        return  # `settle` says so
    if "train.batch_size" in draft.given or "model.bn_groups" in draft.given:
        batch, groups = _with_given(draft, batch, groups, facts.replicas)
    of_preset = "that of the preset"
    few = f"a tenth of {count} images, and {2 * recipe.GROUP} or more"
    draft.set("train.batch_size", batch, of_preset if batch == usual else few)
    if not config.model.sync_bn:
        words = f"of {batch // groups} images each"
        if facts.replicas > 1:
            words += f", on {facts.replicas} replicas"
        draft.set("model.bn_groups", groups, words)
    rate = config.optimizer.learning_rate / usual
    words = "in step with the batch, as the preset has both"
    for name, value in recipe.rate_for(draft.config, batch, rate).items():
        draft.set(name, value, words)
    if plan.queues_keys(draft.config):
        keys = recipe.queue_for(draft.config, count)
        words = "that of the preset"
        if keys != config[config.method].queue_size:
            words = f"a tenth of {count} images at most, a step's keys at least"
        draft.set(queue, keys, words)
        if recipe.is_crowded(draft.config, count):
            words = "the queue has more than that: none of the query's image"
            draft.set(f"{config.method}.mask_same_image", True, words)


def _with_given(draft, batch, groups, replicas):
    """Batch and groups that fit the one of them that was typed."""
    values = draft.values
    if "model.bn_groups" in draft.given:
        groups = values["model.bn_groups"]
        if "train.batch_size" in draft.given:
            return values["train.batch_size"], groups
        return max(batch // groups, 2) * groups, groups
    batch = values["train.batch_size"]
    unit = replicas * values["train.micro_batches"]
    fit = [g for g in range(unit, groups + 1, unit) if batch % g == 0]
    return batch, max(fit, default=groups)


def _choose_length(draft, facts):
    """Epochs, and in which of them rate and momentum rise."""
    config, count = draft.config, facts.images
    steps = max(1, count // config.train.batch_size)  # of an epoch
    low, high = _EPOCHS
    epochs = min(max(round(_SEEN / count), low), high)
    words = f"{_SEEN:,} images seen as in the demo, {low} to {high} epochs"
    if facts.step_seconds:
        hours = _HOURS[facts.kind]
        fitting = int(3600 * hours / (steps * facts.step_seconds))
        if fitting < epochs:
            least = max(2, math.ceil(_QUICK / count))
            epochs = min(max(fitting, least), epochs)
            words = (
                f"about {hours:g} h of {facts.kind}s: a step takes "
                f"{facts.step_seconds:.3g} s"
            )
    draft.set("train.epochs", epochs, words)
    epochs = draft.values["train.epochs"]
    apart = math.ceil(_EPOCH / steps)
    if apart > draft.values["knn.every_epochs"]:
        words = f"once in {_EPOCH} steps: epochs of {steps} are short"
        draft.set("knn.every_epochs", min(apart, epochs), words)
    for name, rising in _RISING.items():
        if draft.values.get(name):
            most = epochs - 1 if name.startswith("schedule") else epochs
            value = min(math.ceil(rising / steps), most)
            draft.set(name, value, f"{rising} steps, as in the quickstart")
    marks = draft.values["schedule.milestones"]
    if draft.values["schedule.name"] == "step" and marks[-1] >= epochs:
        draft.set("schedule.name", "cosine", "its milestones are later")


class Settled(NamedTuple):
    """What a configuration lacks, and the one that lacks it no more.

    Attributes:
      config: ConfigDict, locked. reasons: as of Chosen, of what was changed.
    """

    config: ml_collections.ConfigDict
    reasons: dict

    @property
    def changes(self):
        """dict "section.field" -> value, the overrides."""
        return {name: reason.value for name, reason in self.reasons.items()}


def settle(config, facts, forecast, rate_per_image=None):
    """Changes what the doctor's rows ask for, until they ask no more.

    Args:
      config: ConfigDict. facts: Facts.
      forecast: function: ConfigDict -> bytes.
      rate_per_image: as of recipe.training_rows.

    Returns:
      Settled.
    """
    draft = _Draft(config, ())
    before = dict(draft.values)
    _settle(draft, facts, forecast, rate_per_image)
    reasons = {
        name: reason
        for name, reason in draft.reasons.items()
        if before[name] != reason.value
    }
    return Settled(draft.config, reasons)


def _settle(draft, facts, forecast, rate_per_image):
    for _ in range(_ROUNDS):  # a change may ask for another
        changes = _wanted(draft, facts, forecast, rate_per_image)
        if not changes:
            return
        for name, reason in changes.items():
            draft.set(name, *reason)


def _wanted(draft, facts, forecast, rate_per_image):
    """The changes that the first row with any asks for: dict of Reason."""
    config = draft.config
    for row in _rows(config, facts, rate_per_image):
        changes = {
            name: Reason(value, row.finding)
            for name, value in row.overrides.items()
            if name not in draft.given
        }
        if changes:
            return changes
    if facts.free is None:
        return {}
    needed = forecast(config)
    if resources.fits(needed, facts.free):
        return {}
    words = (
        f"{counting.format_bytes(needed)} without, of "
        f"{counting.format_bytes(facts.free)} free"
    )
    changes = relieve(config, facts, draft.given, rate_per_image)
    return {name: Reason(value, words) for name, value in changes.items()}


def _rows(config, facts, rate_per_image):
    """The rows that look at a configuration and the images alone."""
    if facts.short_side is not None:
        yield recipe.size_row(config, facts.short_side, facts.pixels)
    yield from recipe.training_rows(
        config, facts.images, rate_per_image, facts.replicas
    )
    yield recipe.votes_row(config, facts.bank)
    yield from recipe.precision_rows(config, facts.kind)


def relieve(config, facts, given=frozenset(), rate_per_image=None):
    """The next change that makes a step need less memory, a dict of fields.

    First the same step in more parts; then a smaller batch; then smaller
    views. Empty where nothing is left.

    Args:
      config: ConfigDict. facts: Facts. given: names of fields that stay.
      rate_per_image: as of recipe.training_rows.
    """
    count, replicas = facts.images, facts.replicas
    batch = config.train.batch_size
    parts = config.train.micro_batches
    ways = [{"train.micro_batches": 2 * parts}]
    smaller = recipe.batch_changes(
        config, count, batch // 2, replicas, rate_per_image
    )
    if smaller.get("train.batch_size", batch) < batch:
        ways.append(smaller)
    size = config.data.image_size - 32
    if size >= 32 and config.model.input != "grid":
        change = {"data.image_size": size}
        ways.append(change | recipe.small_views_for(config, size))
    for change in ways:
        if given.isdisjoint(change) and _is_allowed(config, change, replicas):
            return change
    return {}


def _with(config, changes):
    """A configuration with some fields changed, locked."""
    return configs.build(configs.flatten(config.to_dict()) | changes)


def _is_allowed(config, changes, replicas):
    """Whether a configuration may be changed so."""
    try:
        plan.check(_with(config, changes), replicas)
    except ValueError:
        return False
    return True


def remarks(config, facts):
    """Sentences on what no field can mend, a list."""
    sentences = []
    if facts.images < FEW and not config.model.init:
        sentences.append(
            f"{facts.images} images are too few: start from weights that were "
            "trained on more images of the kind, if there are any "
            "(--config.model.init=FILE or RUN; docs/small_data.md)."
        )
    group = config.train.batch_size // config.model.bn_groups
    if config.model.norm == "batch" and not config.model.sync_bn:
        if group < recipe.GROUP and facts.replicas > 1:
            most = max(1, facts.images // recipe.GROUP)
            sentences.append(
                f"{facts.replicas} replicas are too many for {facts.images} "
                f"images: BatchNorm sees {group} at a time. Use fewer devices, "
                f"{min(most, facts.replicas // 2)} or less."
            )
    return sentences
