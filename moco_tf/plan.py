"""What a configuration means: encoder, stream, schedule and method."""

import functools

from moco_tf import config as configs
from moco_tf.data import sources, stream, views
from moco_tf.methods import table
from moco_tf.models import batch_norm, heads, inputs, resnet
from moco_tf.models import encoder as encoders
from moco_tf.training import distribution, schedules


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
    """A source of images that the encoder of a configuration takes."""
    return sources.open_source(spec, inputs.CHANNELS[config.model.input])


def make_stream(config, source, workers=1):
    """The stream of a configuration over a source, for so many processes."""
    data = config.data
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
        config.seed,
        shuffle(config, workers),
        config.data.threads,
        key_views=table.method_class(config.method).KEY_VIEWS,
        augment_on=config.data.augment_on,
        small=small,
    )


def make_schedule(config, steps_per_epoch):
    """The learning-rate schedule of a configuration."""
    schedule, rate = config.schedule, configs.learning_rate(config)
    if schedule.name == "cosine":
        return schedules.Cosine(
            rate,
            config.train.epochs,
            steps_per_epoch,
            schedule.warmup_epochs,
            schedule.unit,
            schedule.get("first_epoch", 0),  # of pre-training alone
        )
    return schedules.Step(
        rate,
        schedule.milestones,
        steps_per_epoch,
        schedule.factor,
        schedule.warmup_epochs,
        schedule.unit,
    )


def make_method(config, images, total_steps, replicas, workers):
    """The method of a configuration, in the scope of the current strategy.

    Args:
      config: ConfigDict. images: N, of the source.
      total_steps: of the whole run. replicas, workers: int.

    Returns:
      TwoViews, not compiled.
    """
    model, micro_batches = config.model, config.train.micro_batches
    splits = max(1, model.bn_groups // (replicas * micro_batches))
    norm = make_norm(config, splits)
    recipe = views.RECIPES[config.data.views]
    backbone, head = make_parts(config, recipe.mean, recipe.std, norm)
    facts = {
        "seed": config.seed,
        "images": images,
        "total_steps": total_steps,
        "steps_per_epoch": total_steps // config.train.epochs,
        "hidden": model.hidden,
        "norm": norm,
    }
    method = table.method_class(config.method)
    own = config[config.method].to_dict()
    if "shuffle" in own:
        del own["shuffle"]
        own["shuffle_keys"] = shuffle(config, workers)
    return method(
        backbone,
        head=head,
        mean=recipe.mean,
        std=recipe.std,
        micro_batches=micro_batches,
        jit_compile=config.train.jit_compile,
        recompute=model.recompute,
        **{name: facts[name] for name in method.NEEDS},
        **own,
    )


def chance_loss(config):
    """The loss of features that tell nothing, in nats, or None."""
    method = table.method_class(config.method)
    return method.chance_loss(
        configs.settings_of(config), configs.run_of(config)
    )


def shuffle(config, workers):
    """The shuffle in use: one host deals both views of a sample itself."""
    kind = config[config.method].get("shuffle", "none")
    if kind == "auto":
        return "address" if workers == 1 else "gather"
    return kind


def describe(config, workdir, batches, strategy, step, last_step):
    """What is about to run, in a few lines."""
    model, train = config.model, config.train
    workers = distribution.worker_count(strategy)
    places = f"{strategy.num_replicas_in_sync} replica(s)"
    if workers > 1:
        places += f" of {workers} workers, shuffle {batches.shuffle_keys}"
    method = table.method_class(config.method)
    words = method.describe(
        configs.settings_of(config),
        configs.run_of(config, len(batches.source)),
    )
    norm = f"{model.bn_groups} BatchNorm groups of "
    norm += f"{train.batch_size // model.bn_groups}"
    if model.norm == "layer":
        norm = "LayerNorm of each image"
    elif model.sync_bn:
        norm = "BatchNorm over all of it"
    start = f"goes on after step {step}" if step else "starts"
    return (
        f"moco-tf {start} in {workdir}\n"
        f"  data     {len(batches.source)} images of {config.data.source}, "
        f"views {config.data.views} at {config.data.image_size} px\n"
        f"  model    {model.backbone} x{model.width:g}, {model.head} head, "
        f"{model.dim} features, {train.precision}\n"
        f"  method   {config.method}: {words}\n"
        f"  batch    {train.batch_size} on {places}, {norm}\n"
        f"  steps    {last_step} ({batches.steps_per_epoch} an epoch, "
        f"{train.epochs} epochs)"
    )
