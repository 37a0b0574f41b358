"""kNN of encoders: while a run trains, and of its checkpoints (`knn`)."""

import pathlib
from collections.abc import Sequence

from moco_tf import paths
from moco_tf.data import sources, specs
from moco_tf.evaluation import features as features_lib
from moco_tf.evaluation import frozen, representation, voting

DESCRIBED = 10_000  # rows at most; time grows with the pairs, by the square
PIXELS_SIDE = 32  # larger images would need gigabytes, with the same result


def compare(bank, query, truth, classes, k, temperature):
    """Measures kNN top-1 of an encoder's two outputs.

    Args:
      bank, query, truth, classes, k, temperature: as `hits`.

    Returns:
      dict with "backbone" and "projection": top-1 accuracy, 0..1.

    Raises:
      ValueError: as `hits` does.
    """
    right = hits(bank, query, truth, classes, k, temperature)
    return {layer: int(rows.sum()) / len(rows) for layer, rows in right.items()}


def hits(bank, query, truth, classes, k, temperature):
    """Says which queries kNN of an encoder's two outputs classes right.

    Args:
      bank, query: features.Features. truth: int64 [n], the queries' labels in
        the bank's numbering. classes: int, their number.
      k: int, neighbours that vote. temperature: of the vote.

    Returns:
      dict with "backbone" and "projection": bool [n].

    Raises:
      ValueError: as `voting.hits` does.
    """
    return {
        layer: voting.hits(
            getattr(bank, layer),
            bank.labels,
            getattr(query, layer),
            truth,
            ks=[k],
            temperatures=[temperature],
            classes=classes,
        )[k, temperature]
        for layer in frozen.LAYERS
    }


def compare_pixels(bank_source, query_source, recipe, size, k, temperature):
    """Measures kNN top-1 of the normalised pixels, for comparison.

    Args:
      size: side of the images, pixels; above 32 they are measured at 32, which
        bounds the memory.
      bank_source, query_source, recipe, k, temperature: as `compare`.

    Returns:
      top-1 accuracy, 0..1.
    """
    labels, classes = features_lib.common_labels(bank_source, query_source)
    bank, query = (
        features_lib.raw_pixels(source, recipe, min(size, PIXELS_SIDE))
        for source in (bank_source, query_source)
    )
    return voting.top1(
        bank.backbone,
        bank.labels,
        query.backbone,
        labels[query.index],
        k=k,
        temperature=temperature,
        classes=classes,
    )


def labelled(bank_source, query_source, ks, otherwise=""):
    """The labelled images of both sources, checked for each k.

    Args:
      otherwise: sentence, what can be done without labels.

    Raises:
      ValueError: as `check` and `sources.labelled` do.
    """
    for k in ks:
        voting.check_k(k, len(bank_source))
    bank = sources.labelled(bank_source, "bank", otherwise)
    query = sources.labelled(query_source, "query set", otherwise)
    for k in ks:
        check(bank, query, k)
    return bank, query


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


def overlap_words(bank, query, names=("bank", "query set")):
    """A sentence for two sources that are one, whose figure misleads, or "".

    Args:
      bank, query: Sources. names: of both, for the sentence.
    """
    if not sources.are_same(bank, query):
        return ""
    return (
        f"{names[0]} and {names[1]} are the same images, so each is known "
        "already: the accuracy says nothing about new ones. Name different "
        "images for one of them."
    )


def evaluate(
    encoder: frozen.FrozenEncoder,
    store: str | pathlib.Path,
    bank: str = "",
    query: str = "",
    ks: Sequence[int] = (200,),
    temperatures: Sequence[float] = (0.1,),
    features: str = "both",
    baselines: bool = False,
) -> dict[tuple, float]:
    """Measures and prints the kNN accuracy of an encoder (`knn`).

    Args:
      encoder: frozen.FrozenEncoder.
      store: folder of stored features, kept for the next evaluation.
      bank, query: source specs; "" = those of the run's configuration.
      ks: neighbour counts. temperatures: of the vote; every pair is measured.
      features: "backbone", "projection" or "both" (all that there are).
      baselines: also measure raw pixels (at most 32 x 32) and, of a run, its
        encoder with random weights.

    Returns:
      dict (name of the features, k, temperature) -> top-1 accuracy, 0..1.

    Raises:
      ValueError: for a missing source or unknown features.

    Side effects: writes below `store`.
    """
    layers = encoder.layers if features == "both" else (features,)
    if not set(layers) <= set(encoder.layers):
        raise ValueError(
            f"features must be both or one of {', '.join(encoder.layers)}. "
            f"Received features={features!r}."
        )
    given = {"bank": bank, "query": query}
    if encoder.config is not None:
        for name in given:
            given[name] = given[name] or _spec_of_run(encoder.config, name)
    opened = _open(given, ks, temperatures, encoder.channels)
    labels, classes = features_lib.common_labels(*opened)
    sets = _feature_sets(encoder, store, opened, layers, baselines)
    print("kNN top-1, cosine, votes weighted by exp(similarity / T)")
    print(f"encoder     {paths.shown(encoder.title)}")
    for (name, spec), stored, source in zip(
        given.items(), sets[-1][2:], opened, strict=True
    ):
        print(
            f"{name:<10}  {paths.shown(spec)}: {len(stored.index)} images, "
            f"{classes} classes, {len(stored.skipped)} unreadable left out"
        )
        if name == "bank" or query != bank:
            print(sources.remark_lines(source, " " * 12), end="")
    if words := overlap_words(*opened):
        print(f"Warning: {words}")
    result = _print_table(sets, labels, ks, temperatures, classes)
    if len(sets[-1][3].index) > 1:  # a single image has no distance to another
        _print_representation(sets)
    return result


def _spec_of_run(config, name):
    """The bank or the query set of a run, if it is there."""
    specs.check_there(config.knn[name], f"knn.{name}", f"pass --{name}=SOURCE.")
    return config.knn[name]


def _print_representation(sets):
    """Prints one line per feature set: figures that need no labels."""
    print("\nwithout labels, of the query images:")
    for name, layer, _, query in sets:
        rows = query.rows[layer]
        rows = rows[:: -(-len(rows) // DESCRIBED)]
        figures = representation.describe(rows).items()
        text = "  ".join(f"{key} {value:.3f}" for key, value in figures)
        print(f"{name:<22}{text}")


def _open(given, ks, temperatures, channels):
    """Opens bank and query; refuses what cannot be measured."""
    for name, spec in given.items():
        if not spec:
            raise ValueError(
                f"kNN needs a {name} and the run's configuration names none. "
                f'Give one: --{name}=SOURCE, such as "folder:DIR".'
            )
    bank, query = (
        sources.open_source(spec, channels) for spec in given.values()
    )
    bank, query = labelled(bank, query, ks)
    for temperature in temperatures:
        voting.check_temperature(temperature)
    return bank, query


def _feature_sets(encoder, store, opened, layers, baselines):
    """Extracts the features to compare, the encoder's after the baselines'.

    Returns:
      list of (name, layer, bank, query), the latter features.StoredFeatures.
    """

    def extract(frozen_encoder):
        return [
            features_lib.extract_to_disk(frozen_encoder, source, store)
            for source in opened
        ]

    sets = []
    if baselines:
        side = min(encoder.image_size, PIXELS_SIDE)
        pixels = [_pixels(source, encoder.recipe, side) for source in opened]
        sets.append((f"raw pixels {side}x{side}", "backbone", *pixels))
    if baselines and encoder.config is not None:
        random = frozen.build_encoder(encoder.config)
        untrained = extract(frozen.freeze(random, encoder.config, "untrained"))
        sets += [(f"untrained {x}", x, *untrained) for x in layers]
    trained = extract(encoder)
    return [*sets, *((layer, layer, *trained) for layer in layers)]


def _pixels(source, recipe, side):
    """Takes raw pixels, in the form of stored features."""
    pixels = features_lib.raw_pixels(source, recipe, side)
    return features_lib.StoredFeatures(
        {"backbone": pixels.backbone},
        pixels.index,
        pixels.labels,
        pixels.skipped,
    )


def _print_table(sets, labels, ks, temperatures, classes):
    """Measures and prints one line per feature set and k."""
    result: dict[tuple, float] = {}
    heads = "".join(f"{f'T {t:g}':>10}" for t in temperatures)
    print(f"\n{'features':<22}{'dim':>6}{'mean norm':>11}{'k':>6}{heads}")
    for name, layer, bank, query in sets:
        rows = bank.rows[layer]
        accuracies = voting.sweep(
            rows,
            bank.labels,
            query.rows[layer],
            labels[query.index],
            ks=ks,
            temperatures=temperatures,
            classes=classes,
        )
        norm = representation.mean_norm(rows)
        for k in ks:
            cells = "".join(
                f"{100 * accuracies[k, t]:>8.2f} %" for t in temperatures
            )
            print(f"{name:<22}{rows.shape[1]:>6}{norm:>11.3f}{k:>6}{cells}")
        result |= {(name, k, t): value for (k, t), value in accuracies.items()}
    return result
