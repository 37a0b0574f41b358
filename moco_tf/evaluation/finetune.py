"""Fine-tuning of a whole network with few or all labels (`finetune`)."""

import pathlib
from typing import Any

import ml_collections
import tensorflow as tf

from moco_tf import workdirs
from moco_tf.data import sources
from moco_tf.evaluation import (
    accuracy,
    classifier,
    features,
    labelled,
    restored,
    subsets,
    supervised,
)
from moco_tf.evaluation import finetune_assembly as assembly
from moco_tf.models import inputs
from moco_tf.training import checkpoints


def finetune_run(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    checkpoint: str,
    output: str | pathlib.Path,
    strategy: tf.distribute.Strategy,
) -> dict[str, Any]:
    """Trains a classifier from a run's encoder and prints how good it is.

    Args:
      config: ConfigDict of the command. workdir: of the pre-training run.
      checkpoint: of the run: "latest", "best", a step or a path; not read
        where model.init is "random".
      output: folder of the results; a fine-tuning that it holds goes on.
      strategy: tf.distribute.Strategy.

    Returns:
      dict, as in result.json.

    Raises:
      ValueError: before any work, for what cannot be trained, or where
        another process writes to `output`.
      Left: when asked to leave; all is saved.

    Side effects: writes config.json, metrics.csv, checkpoints/, result.json,
      confusion.csv, confusion.png and per_class.csv; seeds Python's, NumPy's
      and TensorFlow's generators.
    """
    run = restored.load_config(workdir)
    pair = labelled.open_pair(
        config.data.train,
        config.data.test,
        run,
        inputs.CHANNELS[run.model.input],
    )
    train, held = choose(config, pair)
    check(config, pair, train, held, strategy.num_replicas_in_sync)
    start = assembly.load_start(config, run, workdir, checkpoint, strategy)
    output = pathlib.Path(output)
    with workdirs.hold(output):
        workdirs.prepare(
            config,
            output,
            pair.train.fingerprint() + pair.test.fingerprint(),
            command="finetune",
            encoder=start.identity,
        )
        if (output / "result.json").is_file():
            result = workdirs.read_json(output / "result.json")
            print(f"This fine-tuning is finished: {output}.")
        else:
            result = _train(config, start, pair, train, held, output, strategy)
    print(_text(result, output))
    return result


def _train(config, start, pair, train, held, output, strategy):
    """Trains, judges on the test source, and writes the result."""
    print(_describe(config, start, train, held, pair, output), flush=True)
    batches = assembly.make_stream(config, start.run, train)
    classes = len(pair.names)
    method = assembly.make_method(config, start, batches, classes, strategy)
    size, rows = start.run.data.image_size, start.run.knn.batch_size

    def evaluate():
        logits, index = classifier.predict(method, held, size, rows)
        return float(accuracy.in_top(logits, held.labels[index], 1).mean())

    used = supervised.train(
        method,
        batches,
        config,
        output,
        strategy,
        evaluate if len(held) else None,
        config.train.early_stopping,
    )
    checkpoints.restore(method, used)
    logits, index = classifier.predict(method, pair.test, size, rows)
    skipped = features.missing_names(pair.test, index, len(pair.test))
    labels = pair.test_labels[index]
    result = {
        "init": config.model.init,
        "encoder": start.title,
        "encoder_identity": start.identity,
        "labels": config.data.labels,
        "train_images": len(train),
        "held_out_images": len(held),
        "held_out_top1": evaluate() if len(held) else None,
        "classes": classes,
        "epoch": checkpoints.read_meta(used)["epoch"],
        "unreadable_test_images": len(skipped),
        **accuracy.summary(logits, labels),
    }
    workdirs.write_json(output / "result.json", result)
    accuracy.write_confusion(output, logits.argmax(axis=1), labels, pair.names)
    return result


def choose(config, pair):
    """The images to train on and those held out, of the training source.

    Args:
      config: ConfigDict of the command. pair: labelled.Labelled.

    Returns:
      train, held: sources.Subset; `held` is empty with data.holdout 0.
    """
    chosen = subsets.balanced(
        pair.train_labels, config.data.labels, config.seed
    )
    kept, held = subsets.split(
        pair.train_labels[chosen], config.data.holdout, config.seed
    )
    return tuple(
        sources.Subset(pair.train, chosen[part]) for part in (kept, held)
    )


def check(config, pair, train, held, replicas):
    """Refuses what cannot be trained, before any work.

    Raises:
      ValueError: with the rule, the values received and the remedy.
    """
    batch, options = config.train.batch_size, config.augment
    if batch > len(train) or batch % replicas:
        raise ValueError(
            "train.batch_size must be at most the number of images to train "
            f"on, and a multiple of the replicas. Received {batch}, "
            f"{len(train)} images (data.labels={config.data.labels:g} of "
            f"{len(pair.train)}, less {len(held)} held out) and {replicas} "
            "replicas. Lower --config.train.batch_size."
        )
    together = batch if config.model.sync_bn else batch // replicas
    blends = options.mixup or options.cutmix
    if together < 2 or (blends and batch // replicas < 2):
        raise ValueError(
            "BatchNorm, MixUp and CutMix need two images or more of a "
            f"replica. Received train.batch_size={batch} on {replicas} "
            "replicas. Raise --config.train.batch_size."
        )
    if config.train.early_stopping and not len(held):
        raise ValueError(
            "Early stopping needs held-out images. Received "
            f"train.early_stopping={config.train.early_stopping} and "
            f"data.holdout={config.data.holdout:g}, {len(held)} images. Pass "
            "--config.data.holdout=0.1, or --config.train.early_stopping=0."
        )
    supervised.check_schedule(config)


def _describe(config, start, train, held, pair, output):
    """What is about to run, in a few lines."""
    return (
        f"moco-tf finetune in {output}\n"
        f"  start    {start.title}\n"
        f"  train    {len(train)} images of {len(pair.names)} classes "
        f"({100 * config.data.labels:g} % of {len(pair.train)}), {len(held)} "
        "held out\n"
        f"  test     {len(pair.test)} images"
    )


def _text(result, output):
    return (
        f"finetune ({result['init']}), {100 * result['labels']:g} % of labels: "
        f"{result['train_images']} images, epoch {result['epoch']:g}\n"
        f"{accuracy.describe(result)}\n"
        f"results in {output}"
    )
