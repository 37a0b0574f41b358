"""What a configuration means, resolved once: the plan of a pre-training."""

import dataclasses
import functools
import types
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import config_schema, cores, naming, paths
from moco_tf.data import sources, stream, views
from moco_tf.methods import online_probe, table, two_views
from moco_tf.models import batch_norm, heads, inputs, resnet
from moco_tf.models import encoder as encoders
from moco_tf.training import distribution, optimizers, schedules


@dataclasses.dataclass(frozen=True)
class Plan:
    """A pre-training as it will run.

    Attributes:
      config: ConfigDict that it resolves, for what is written to files.
      replicas, workers: int, of the strategy.
      source: Source of the images. batches: Stream over it, of "key" views in
        the order of `shuffle`. Both None of a plan without data.
      method: class of the method. settings: object with the fields of its
        section as attributes. run: Run, what the class may ask.
      shuffle: str, how key views travel (methods/shuffle.KINDS).
      chance_loss: float, of features that tell nothing, in nats, or None.
      steps_per_epoch, total_steps: int. labels: online_probe.Labels, or None.
      last_step: int, after which the run stops; that of train.max_steps.
    """

    config: ml_collections.ConfigDict
    replicas: int
    workers: int
    source: Any
    batches: Any
    method: type[two_views.TwoViews]
    settings: types.SimpleNamespace
    run: two_views.Run
    shuffle: str
    chance_loss: float | None
    steps_per_epoch: int
    total_steps: int
    last_step: int
    labels: online_probe.Labels | None = None

    def make_method(self, strategy: tf.distribute.Strategy) -> tf.keras.Model:
        """The method, compiled, with its optimiser's slots.

        Side effects: seeds Keras' global generator, so that the first weights
        are a function of config.seed; sets TF32.
        """
        config = self.config
        tf.keras.utils.set_random_seed(config.seed)
        distribution.set_precision(config.train.tf32)
        with strategy.scope():
            method = self._build_method()
            optimizer = optimizers.make_optimizer(
                config.optimizer.name,
                make_schedule(config, self.steps_per_epoch),
                config.optimizer.momentum,
                config.optimizer.weight_decay,
            )
            method.compile(
                optimizers.with_loss_scale(optimizer, config.train.precision)
            )
        method.build_optimizer()
        return method

    def _build_method(self):
        """The method, not compiled, in the scope of the current strategy."""
        config, model = self.config, self.config.model
        micro_batches = config.train.micro_batches
        splits = max(1, model.bn_groups // (self.replicas * micro_batches))
        norm = make_norm(config, splits)
        recipe = views.RECIPES[config.data.views]
        backbone, head = make_parts(config, recipe.mean, recipe.std, norm)
        encoders.freeze(backbone, frozen_stages(config))
        needs = {
            "seed": config.seed,
            "images": self.run.images,
            "total_steps": self.total_steps,
            "steps_per_epoch": self.steps_per_epoch,
            "hidden": model.hidden,
            "norm": norm,
        }
        arguments = dict(vars(self.settings))
        if "shuffle" in arguments:
            del arguments["shuffle"]
            arguments["shuffle_keys"] = self.shuffle
        return self.method(
            backbone,
            head=head,
            mean=recipe.mean,
            std=recipe.std,
            micro_batches=micro_batches,
            jit_compile=config.train.jit_compile,
            recompute=model.recompute,
            clip_norm=config.optimizer.clip_norm,
            probe=_make_probe(config, self.labels, backbone),
            **{name: needs[name] for name in self.method.NEEDS},
            **arguments,
        )

    def describe(self, workdir: Any, step: int) -> str:
        """What is about to run after so many steps, in a few lines."""
        return _describe(self, workdir, step)


def _describe(plan, workdir, step):
    """The lines of Plan.describe."""
    config, model, train = plan.config, plan.config.model, plan.config.train
    devices = f"{plan.replicas} {distribution.kind_of_devices()} replica(s)"
    if plan.workers > 1:
        devices += f" of {plan.workers} workers, shuffle {plan.shuffle}"
    words = plan.method.describe(plan.settings, plan.run)
    norm = f"{model.bn_groups} BatchNorm groups of "
    norm += f"{train.batch_size // model.bn_groups}"
    if model.norm == "layer":
        norm = "LayerNorm of each image"
    elif model.sync_bn:
        norm = "BatchNorm over all of it"
    start = f"goes on after step {step}" if step else "starts"
    frozen = ", ".join(frozen_stages(config))
    return (
        f"moco-tf {start} in {paths.shown(workdir)}\n"
        f"  data     {plan.run.images} images of "
        f"{paths.shown(config.data.source)}, "
        f"views {config.data.views} at {config.data.image_size} px\n"
        f"{sources.remark_lines(plan.source, '           ')}"
        f"  model    {model.backbone} x{model.width:g}, {model.head} head, "
        f"{model.dim} features, {train.precision}{_slowness(train.precision)}"
        + (f"; frozen: {frozen}\n" if frozen else "\n")
        + f"  method   {config.method}: {words}\n{_probe_line(plan.labels)}"
        f"  batch    {train.batch_size} on {devices}, {norm}\n"
        f"  steps    {plan.last_step} ({plan.steps_per_epoch} an epoch, "
        f"{train.epochs} epochs)"
    )


def make(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    source: Any = None,
) -> Plan:
    """Checks a configuration and resolves what it means on these devices.

    Args:
      config: ConfigDict of a pre-training. strategy: tf.distribute.Strategy.
      source: Source to train on; None: opens that of config.data.source.

    Raises:
      ValueError: for anything that cannot work, with the remedy.
    """
    check(config, strategy.num_replicas_in_sync)
    if source is None:
        source = open_source(config, config.data.source)
    batches = make_stream(config, source, strategy)
    return _resolve(config, strategy, len(source), source, batches)


def make_method(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    images: int,
    labels: online_probe.Labels | None = None,
) -> tf.keras.Model:
    """As Plan.make_method, over so many images that need not be there.

    For a method that is restored, or measured on noise; nothing is checked. An
    online probe trains beside it with labels alone.
    """
    plan = _resolve(config, strategy, images, None, None, labels)
    return plan.make_method(strategy)


def _probe_labels(config, source):
    """The online_probe.Labels of a source; None without a probe or a source.

    Raises:
      ValueError: for a source without labels, or of one class.
    """
    if source is None or not config.probe.online:
        return None
    without = "Or train without the probe: --config.probe.online=false."
    sources.labelled(source, "training source", without)  # refuses
    labels = np.asarray(source.labels, np.int64)
    classes = len(source.class_names or ()) or int(labels.max()) + 1
    if classes < 2:
        raise ValueError(
            "An online probe needs two classes or more. Received "
            f"{classes} in the training source. Give one of more classes as "
            "--config.data.source=SOURCE, or pass --config.probe.online=false."
        )
    return online_probe.Labels(labels, classes)


def _make_probe(config, labels, backbone):
    """The OnlineProbe of a backbone's features; None without labels."""
    if labels is None:
        return None
    features = encoders.feature_size(backbone)
    rate = config.probe.learning_rate
    return online_probe.OnlineProbe(features, labels, rate)


def _slowness(precision):
    """A word on a precision that the devices are slow in, or ""."""
    if distribution.kind_of_devices() == "GPU":
        return ""
    slow = cores.lack_kernels_for(precision)
    return " (slow on this processor; float32 is faster)" if slow else ""


def _probe_line(labels):
    """What a probe learns in a line with its end; "" without one."""
    if labels is None:
        return ""
    labelled = np.count_nonzero(labels.of_images >= 0)
    return (
        f"  probe    linear, of {labels.classes} classes, on the labels of "
        f"{labelled} images\n"
    )


def _resolve(config, strategy, images, source, batches, labels=None):
    """The Plan of `images` images."""
    method, settings, run = resolve_method(config, images)
    workers = distribution.worker_count(strategy)
    steps_per_epoch, total_steps, last_step = count_steps(config, images)
    return Plan(
        config=config,
        replicas=strategy.num_replicas_in_sync,
        workers=workers,
        source=source,
        batches=batches,
        method=method,
        settings=settings,
        run=run,
        shuffle=resolve_shuffle(settings, workers),
        chance_loss=method.chance_loss(settings, run),
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        last_step=last_step,
        labels=labels or _probe_labels(config, source),
    )


def count_steps(
    config: ml_collections.ConfigDict, images: int
) -> tuple[int, int, int]:
    """The length of a run over so many images.

    Returns:
      steps of an epoch, at least 1; steps of the schedule; and the step after
      which the run stops, which train.max_steps may set.
    """
    steps_per_epoch = max(1, images // config.train.batch_size)
    total_steps = config.train.epochs * steps_per_epoch
    last_step = min(config.train.max_steps or total_steps, total_steps)
    return steps_per_epoch, total_steps, last_step


def resolve_method(
    config: ml_collections.ConfigDict, images: int = 0
) -> tuple[type[two_views.TwoViews], types.SimpleNamespace, two_views.Run]:
    """The method of a configuration, and what its class may ask of the run.

    Args:
      config: ConfigDict of a pre-training.
      images: N of the source; 0 where they are not counted yet.

    Returns:
      class; its section's fields as attributes; methods.two_views.Run.
    """
    run = two_views.Run(
        method=config.method,
        images=images,
        batch_size=config.train.batch_size,
        micro_batches=config.train.micro_batches,
        input=config.model.input,
        norm=config.model.norm,
        dim=config.model.dim,
        image_size=config.data.image_size,
        patch=config.model.patch,
        small_views=config.data.small_views,
        head=config.model.head,
    )
    settings = types.SimpleNamespace(**config[config.method].to_dict())
    return table.method_class(config.method), settings, run


def check(config: ml_collections.ConfigDict, replicas: int) -> None:
    """Refuses what can be refused of a pre-training without its data.

    Args:
      config: ConfigDict.
      replicas: number of replicas in the strategy.

    Raises:
      ValueError: with the rule, the value received and the remedy.
    """
    configs.check_fields(config)
    backbones = encoders.backbone_names()
    if config.model.backbone not in backbones:
        raise ValueError(
            "config.model.backbone must name a known backbone. Received "
            f"{config.model.backbone!r}. "
            + naming.suggestion(config.model.backbone, backbones)
        )
    stages = frozen_stages(config)
    encoders.check_stages(config.model.backbone, stages)
    if stages and not config.model.init:
        raise ValueError(
            "model.freeze keeps stages of weights that are there. Received "
            f"freeze={config.model.freeze!r} for random weights. Pass "
            "--config.model.init=PATH, or --config.model.freeze="
        )
    # First what the method does not take: groups and parts of a batch are then
    # advised among those that it takes.
    method, settings, run = resolve_method(config)
    method.check(settings, run)
    config_schema.check_relations(config, replicas)


def frozen_stages(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The stages of the backbone that model.freeze names."""
    names = config.model.freeze.split(",")
    return tuple(name.strip() for name in names if name.strip())


def chance_loss(config: ml_collections.ConfigDict) -> float | None:
    """The loss of features that tell nothing, in nats, or None.

    It needs no data.
    """
    method, settings, run = resolve_method(config)
    return method.chance_loss(settings, run)


def start_words(config: ml_collections.ConfigDict) -> str:
    """What the encoder of a pre-training is before its first step, in words."""
    is_random = not config.model.get("init", "")
    return "untrained encoder" if is_random else "starting encoder"


def queues_keys(config: ml_collections.ConfigDict) -> bool:
    """Whether a queue holds keys of a momentum encoder, as negatives.

    SwAV's queue holds features that help to make codes: False.
    """
    section = config[config.method]
    return "queue_size" in section and "momentum" in section


def resolve_shuffle(settings: types.SimpleNamespace, workers: int) -> str:
    """Resolves how key views travel (methods/shuffle.KINDS).

    "auto" is "address" on one host, which makes both views of a sample, and
    "gather" on several.
    """
    kind = getattr(settings, "shuffle", "none")
    if kind == "auto":
        return "address" if workers == 1 else "gather"
    return kind


def make_norm(config, splits=1):
    """The factory of a configuration's BatchNorm layers.

    Args:
      config: ConfigDict of a pre-training.
      splits: groups of a batch; 1 does for inference.

    Returns:
      functools.partial of BatchNorm.
    """
    return functools.partial(
        batch_norm.BatchNorm, splits=splits, synchronized=config.model.sync_bn
    )


def make_parts(config, mean, std, norm=None):
    """The backbone and the head of a configuration.

    Args:
      config: ConfigDict of a pre-training.
      mean, std: of the channels, that images are normalised by.
      norm: factory of BatchNorm layers; None: that of one group.

    Returns:
      backbone: keras.Model, normalised float [N, H, W, 3] -> float32 [N, F];
        [N, H, W, 6] of the input "pair".
      head: keras.Model, [N, F] -> float32 [N, C]; [N, 2 C] of "lab" and "pair".
    """
    model, size = config.model, config.data.image_size
    if config.data.small_views:
        size = None  # the views have two sizes
    norm = norm or make_norm(config)
    norms = {"batch": norm, "layer": resnet.layer_norm}
    backbone = inputs.make_backbone(
        model.input,
        functools.partial(
            encoders.build_backbone,
            model.backbone,
            width=model.width,
            stem=model.stem,
            norm=norms[model.norm],
            precision=config.train.precision,
        ),
        image_size=size,
        patch=model.patch,
        mean=mean,
        std=std,
    )
    head = inputs.make_head(
        model.input,
        functools.partial(
            heads.projection_head,
            model.head,
            dim=model.dim,
            hidden=model.hidden,
            norm=norm,
        ),
        encoders.feature_size(backbone),
    )
    return backbone, head


def open_source(config, spec):
    """Opens a source, of images that the encoder of a configuration takes.

    Raises:
      ValueError: for a spec that cannot be opened, or other images.
    """
    return sources.open_source(spec, inputs.CHANNELS[config.model.input])


def make_stream(config, source, strategy=None):
    """Makes the stream of a configuration over a source.

    Args:
      config: ConfigDict of a pre-training. source: Source.
      strategy: tf.distribute.Strategy of the run, whose workers divide the
        cores of their host; None: a process on its own.
    """
    workers, of_host = distribution.worker_count(strategy), 1
    if workers > 1:
        of_host = distribution.workers_of_host(strategy)
    data = config.data
    method, settings, _ = resolve_method(config)
    recipe = views.recipe(data.views, data.strength)
    small = None
    if data.small_views:
        scale = data.small_scale
        small = recipe.small(data.small_views, data.small_size, scale)
    return stream.Stream(
        source,
        recipe,
        config.data.image_size,
        config.train.batch_size,
        seed=config.seed,
        shuffle_keys=resolve_shuffle(settings, workers),
        threads=config.data.threads or cores.count(of_host),
        key_views=method.KEY_VIEWS,
        augment_on=config.data.augment_on,
        small=small,
    )


def make_schedule(config, steps_per_epoch, rate=None):
    """Makes the learning-rate schedule of a configuration, of any command.

    Args:
      config: ConfigDict. steps_per_epoch: int.
      rate: float, the largest; None: that of the configuration.
    """
    schedule = config.schedule
    rate = configs.learning_rate(config) if rate is None else rate
    if schedule.name == "cosine":
        return schedules.Cosine(
            rate,
            config.train.epochs,
            steps_per_epoch,
            warmup_epochs=schedule.warmup_epochs,
            unit=schedule.unit,
            first_epoch=schedule.get("first_epoch", 0),  # of pre-training alone
        )
    return schedules.Step(
        rate,
        schedule.milestones,
        steps_per_epoch,
        decay=schedule.factor,
        warmup_epochs=schedule.warmup_epochs,
        unit=schedule.unit,
    )
