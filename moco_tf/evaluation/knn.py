"""kNN of encoders: while a run trains, and of its checkpoints (`knn`)."""

import numpy as np

from moco_tf.data import sources, views
from moco_tf.evaluation import features as features_lib
from moco_tf.evaluation import restored, voting
from moco_tf.training import checkpoints

LAYERS = ("backbone", "projection")
PIXELS_SIDE = 32  # larger pixels would need gigabytes and tell no more

weighted_vote, top1, sweep = voting.weighted_vote, voting.top1, voting.sweep


def compare(
    encoder, bank_source, query_source, recipe, size, batch_size, k, temperature
):
    """Measures kNN top-1 of an encoder's two outputs.

    Args:
      encoder: encoder.Encoder. bank_source, query_source: labelled Sources.
      recipe: views.Recipe, whose evaluation view is used.
      size: side of the images, pixels. batch_size: images per forward pass.
      k: neighbours. temperature: of the vote.

    Returns:
      dict with "backbone" and "projection": top-1 accuracy, 0..1, of the
      images that can be read (a warning names the others).

    Raises:
      ValueError: as `sweep` and `features.common_labels` do.
    """
    labels, classes = features_lib.common_labels(bank_source, query_source)
    bank, query = (
        features_lib.extract(encoder, source, recipe, size, batch_size)
        for source in (bank_source, query_source)
    )
    truth = labels[query.index]
    return {
        layer: voting.top1(
            getattr(bank, layer),
            bank.labels,
            getattr(query, layer),
            truth,
            k,
            temperature,
            classes,
        )
        for layer in LAYERS
    }


def compare_pixels(
    bank_source, query_source, recipe, size, k, temperature, batch_size=256
):
    """Measures kNN top-1 of the normalised pixels, for comparison.

    Args:
      size: side of the images, pixels; above 32 they are measured at 32, which
        bounds the memory.
      bank_source, query_source, recipe, k, temperature: as `compare`.
      batch_size: images per batch; does not change the result.

    Returns:
      top-1 accuracy, 0..1.
    """
    labels, classes = features_lib.common_labels(bank_source, query_source)
    bank, query = (
        features_lib.raw_pixels(
            source, recipe, min(size, PIXELS_SIDE), batch_size
        )
        for source in (bank_source, query_source)
    )
    return voting.top1(
        bank.backbone,
        bank.labels,
        query.backbone,
        labels[query.index],
        k,
        temperature,
        classes,
    )


def check(bank_source, query_source, k):
    """Refuses two sources that kNN cannot compare, before anything is run.

    Raises:
      ValueError: for sources without labels or with other classes, an empty
        query set, and a k that the bank cannot serve.
    """
    if not len(query_source):
        raise ValueError("kNN needs at least one query. Received an empty set.")
    voting.check_k(k, len(bank_source))
    features_lib.common_labels(bank_source, query_source)


def evaluate_run(
    workdir,
    bank="",
    query="",
    ks=(200,),
    temperatures=(0.1,),
    features="both",
    checkpoint="latest",
    baselines=False,
):
    """Measures and prints kNN of a run's checkpoint (the `knn` command).

    Args:
      workdir: of the run.
      bank, query: source specs; "" = those of the run's configuration.
      ks: neighbour counts. temperatures: of the vote; every pair is measured.
      features: "backbone", "projection" or "both".
      checkpoint: "latest", "best", a step, or the path of a checkpoint.
      baselines: also measure raw pixels (at most 32 x 32) and the encoder
        with random weights.

    Returns:
      dict (name of the features, k, temperature) -> top-1 accuracy, 0..1.

    Raises:
      ValueError: for a missing source, checkpoint or unknown features.
    """
    layers = {"both": LAYERS}.get(features, (features,))
    if not set(layers) <= set(LAYERS):
        raise ValueError(
            "features must be 'backbone', 'projection' or 'both'. Received "
            f"features={features!r}."
        )
    config = restored.load_config(workdir)
    path = restored.find_checkpoint(workdir, checkpoint)
    specs = {
        "bank": bank or config.knn.bank,
        "query": query or config.knn.query,
    }
    opened = _open(specs, ks, temperatures)
    labels, classes = features_lib.common_labels(*opened)
    sets = _feature_sets(config, path, opened, layers, baselines)
    print("kNN top-1, cosine, votes weighted by exp(similarity / T)")
    print(f"checkpoint  {path}")
    for (name, spec), found in zip(specs.items(), sets[-1][2:], strict=True):
        print(
            f"{name:<10}  {spec}: {len(found.index)} images, {classes} classes"
            f", {len(found.skipped)} unreadable left out"
        )
    return _print_table(sets, labels, ks, temperatures, classes)


def _open(specs, ks, temperatures):
    """Opens bank and query; refuses what cannot be measured."""
    for name, spec in specs.items():
        if not spec:
            raise ValueError(
                f"kNN needs a {name} and the run's configuration names none. "
                f'Give one: --{name}=SOURCE, such as "folder:DIR".'
            )
    bank, query = (sources.open_source(spec) for spec in specs.values())
    for k in ks:
        check(bank, query, k)
    for temperature in temperatures:
        voting.check_temperature(temperature)
    return bank, query


def _feature_sets(config, path, opened, layers, baselines):
    """Returns (name, layer, bank Features, query Features), trained last."""
    size, batch = config.data.image_size, config.knn.batch_size
    recipe = views.RECIPES[config.data.views]
    encoder = restored.build_encoder(config)

    def encode():
        return [
            features_lib.extract(encoder, source, recipe, size, batch)
            for source in opened
        ]

    sets = []
    if baselines:
        side = min(size, PIXELS_SIDE)
        pixels = [
            features_lib.raw_pixels(source, recipe, side) for source in opened
        ]
        sets.append((f"raw pixels {side}x{side}", "backbone", *pixels))
        untrained = encode()
        sets += [(f"untrained {x}", x, *untrained) for x in layers]
    checkpoints.restore_query_encoder(encoder, path)
    trained = encode()
    return [*sets, *((layer, layer, *trained) for layer in layers)]


def _print_table(sets, labels, ks, temperatures, classes):
    """Measures and prints one line per feature set and k."""
    result = {}
    heads = "".join(f"{f'T {t:g}':>10}" for t in temperatures)
    print(f"\n{'features':<22}{'dim':>6}{'mean norm':>11}{'k':>6}{heads}")
    for name, layer, bank, query in sets:
        rows = getattr(bank, layer)
        found = voting.sweep(
            rows,
            bank.labels,
            getattr(query, layer),
            labels[query.index],
            ks,
            temperatures,
            classes,
        )
        norm = np.linalg.norm(rows, axis=1).mean()
        for k in ks:
            cells = "".join(
                f"{100 * found[k, t]:>8.2f} %" for t in temperatures
            )
            print(f"{name:<22}{rows.shape[1]:>6}{norm:>11.3f}{k:>6}{cells}")
        result |= {(name, k, t): value for (k, t), value in found.items()}
    return result
