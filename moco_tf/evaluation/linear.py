"""Linear classification on frozen features (the `linear` command).

Two ways to the same figure. "published": a new random crop of every image in
every epoch, through the frozen encoder (MoCo v1, Sec. 4.1). "cached": features
once, then many learning rates in one pass, and the best by a held-out part.
"""

import pathlib
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from moco_tf import workdirs
from moco_tf.evaluation import (
    accuracy,
    feature_store,
    frozen,
    labelled,
    linear_cached,
    linear_published,
    probe,
    representation,
    supervised,
)


def linear_run(
    config: ml_collections.ConfigDict,
    judged: frozen.Frozen,
    output: str | pathlib.Path,
    strategy: tf.distribute.Strategy,
    folder: str | pathlib.Path | None = None,
) -> dict[str, Any]:
    """Measures and prints the linear accuracy of an encoder.

    Args:
      config: ConfigDict of the command. judged: frozen.Frozen.
      output: folder of the results; a run that it holds goes on.
      strategy: tf.distribute.Strategy.
      folder: of stored features; None: features/ in `output`.

    Returns:
      dict, as in result.json.

    Raises:
      ValueError: before any work, for what cannot be measured, or where
        another process writes to `output`.
      FloatingPointError: if the encoder has changed.

    Side effects: writes config.json, result.json, linear.npz, confusion.csv,
      confusion.png and per_class.csv, and what the way itself writes.
    """
    pair = labelled.open_pair(
        config.data.train, config.data.test, judged.config, judged.channels
    )
    check(config, judged, pair, strategy.num_replicas_in_sync)
    output = pathlib.Path(output)
    with workdirs.hold(output):
        workdirs.prepare(
            config,
            output,
            pair.train.fingerprint() + pair.test.fingerprint(),
            command="linear",
            encoder=judged.identity,
        )
        if (output / "result.json").is_file():
            result = workdirs.read_json(output / "result.json")
            print(f"This probe is finished: {output}.")
        else:
            folder = folder or output / "features"
            result = _measure(config, judged, pair, output, strategy, folder)
    print(_text(result, output))
    return result


def _measure(config, judged, pair, output, strategy, folder):
    """Trains, judges on the test source, and writes the result."""
    print(_describe(config, judged, pair, output), flush=True)
    test = feature_store.extract(judged, pair.test, folder)
    way = {
        "cached": linear_cached.train,
        "published": linear_published.train,
    }[config.probe.way]
    weights, found = way(config, judged, pair, output, folder, strategy)
    if frozen.digest(judged) != judged.identity:
        raise FloatingPointError(
            "The encoder's weights have changed during the probe: the figure "
            "would not be that of a frozen encoder."
        )
    rows, labels = (
        test.rows[config.probe.features],
        pair.test_labels[test.index],
    )
    logits = probe.scores(rows, weights)[0]
    result = {
        "way": config.probe.way,
        "encoder": judged.title,
        "encoder_identity": judged.identity,
        "encoder_weights": sum(int(tf.size(w)) for w in judged.weights),
        "features": config.probe.features,
        "feature_size": int(rows.shape[1]),
        "feature_norm": representation.mean_norm(rows),
        "unreadable_test_images": len(test.skipped),
        **found,
        **accuracy.summary(logits, labels),
    }
    _write(output, result, weights[0], pair.names)
    accuracy.write_confusion(output, logits.argmax(axis=1), labels, pair.names)
    return result


def check(config, judged, pair, replicas):
    """Refuses what cannot be measured, before any work.

    Raises:
      ValueError: with the rule, the values received and the remedy.
    """
    layer, batch = config.probe.features, config.train.batch_size
    if layer not in judged.layers:
        raise ValueError(
            f"The encoder has the features {', '.join(judged.layers)}. "
            f"Received probe.features={layer!r}."
        )
    if len(pair.train) < batch or batch % replicas:
        raise ValueError(
            "train.batch_size must be at most the number of training images, "
            f"and a multiple of the replicas. Received {batch}, "
            f"{len(pair.train)} images and {replicas} replicas. Lower "
            "--config.train.batch_size."
        )
    supervised.check_schedule(config)


def _write(output, result, weights, names):
    """Writes result.json and linear.npz (kernel, bias, classes)."""
    np.savez(
        output / "linear.npz",
        kernel=weights[:-1],
        bias=weights[-1],
        classes=np.array(names, np.str_),
    )
    workdirs.write_json(output / "result.json", result)


def _text(result, output):
    return (
        f"linear ({result['way']}), {result['features']} features of "
        f"{result['feature_size']}, mean norm {result['feature_norm']:.3f}, "
        f"rate {result['rate']:g}\n"
        f"{accuracy.describe(result)}\n"
        f"the encoder's {result['encoder_weights']} weights have not changed "
        f"by one bit\nresults in {output}"
    )


def _describe(config, judged, pair, output):
    return (
        f"moco-tf linear, {config.probe.way} way, in {output}\n"
        f"  encoder  {judged.title}\n"
        f"  train    {len(pair.train)} images, {len(pair.names)} classes\n"
        f"  test     {len(pair.test)} images"
    )
