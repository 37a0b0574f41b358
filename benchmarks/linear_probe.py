"""The cached linear probe: its time, and beside scikit-learn's regression.

python benchmarks/linear_probe.py
python benchmarks/linear_probe.py --workdir=RUN --train=folder:DIR/train \\
    --test=folder:DIR/test

Without a run: 8 rates x 100 epochs on 50,000 x 512 random features of 10
classes; exits 1 above 60 s. With one: features of the run (stored in it, as by
`moco-tf linear`), and test accuracy and time of the probe, with its choice of
the rate, and of scikit-learn's logistic regression (L-BFGS, standardised
features, its regularisation chosen on the same held-out part).
"""

import argparse
import sys
import time

import numpy as np

SECONDS = 60.0


def main():
    parser = argparse.ArgumentParser(
        description="The cached linear probe.", allow_abbrev=False
    )
    parser.add_argument("--workdir", help="run whose features are taken")
    parser.add_argument("--train", default="", help="labelled source")
    parser.add_argument("--test", default="", help="labelled source")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=100)
    options = parser.parse_args()

    from moco_tf import config as configs
    from moco_tf.cli import quiet

    quiet.prepare()
    config = configs.load("linear", command="linear")
    with quiet.imports():
        from moco_tf.evaluation import cached_probe
    recipe = cached_probe.Recipe(
        tuple(config.probe.rates),
        options.epochs,
        tuple(m for m in config.schedule.milestones if m < options.epochs),
        config.schedule.factor,
        config.optimizer.momentum,
        config.optimizer.weight_decay,
        config.train.batch_size,
        config.seed,
    )
    if options.workdir:
        compare(options, config, recipe)
        return
    random = np.random.default_rng(0)
    rows = random.normal(size=(options.rows, options.features))
    rows, labels = np.abs(rows).astype("f4"), random.integers(0, 10, len(rows))
    kept = np.ones(len(rows), bool)
    start = time.perf_counter()
    cached_probe.train_probe([rows], labels, kept, 10, recipe)
    seconds = time.perf_counter() - start
    print(
        f"{len(recipe.rates)} rates x {recipe.epochs} epochs on {len(rows)} x "
        f"{options.features}: {seconds:.1f} s (limit {SECONDS:g} s)"
    )
    if seconds > SECONDS:
        sys.exit("beyond the limit")


def compare(options, config, recipe):
    """Prints accuracy and seconds of both on a run's features."""
    import pathlib

    from moco_tf.evaluation import cached_probe, features, frozen, supervised

    encoder = frozen.open_frozen(options.workdir)
    pair = supervised.open_labelled(options.train, options.test, encoder.config)
    store = pathlib.Path(options.workdir) / "features"
    train = features.extract_to_disk(encoder, pair.train, store)
    test = features.extract_to_disk(encoder, pair.test, store)
    labels, truth = pair.train_labels[train.index], pair.test_labels[test.index]
    rows, tests = train.rows["backbone"], test.rows["backbone"]
    everything, tested = np.ones(len(labels), bool), np.ones(len(truth), bool)
    _, held_out = supervised.split(labels, config.probe.holdout, config.seed)
    held_out = np.isin(np.arange(len(labels)), held_out)

    start = time.perf_counter()
    classes = len(pair.names)
    weights = cached_probe.train_probe(
        [rows], labels, ~held_out, classes, recipe
    )
    accuracies = cached_probe.top1(rows, labels, held_out, weights)
    rate = recipe.rates[int(np.argmax(accuracies))]
    recipe = recipe._replace(rates=(rate,))
    weights = cached_probe.train_probe(
        [rows], labels, everything, classes, recipe
    )
    (top1,) = cached_probe.top1(tests, truth, tested, weights)
    seconds = time.perf_counter() - start
    print(
        f"probe, rate {rate:g}: {100 * top1:.2f} %, {seconds:.1f} s", flush=True
    )

    from sklearn import linear_model, pipeline, preprocessing

    start = time.perf_counter()
    best = (-1.0, None)
    for strength in (1e-4, 1e-3, 1e-2, 1e-1):
        model = pipeline.make_pipeline(
            preprocessing.StandardScaler(),
            linear_model.LogisticRegression(C=strength, max_iter=1000),
        )
        model.fit(rows[~held_out], labels[~held_out])
        best = max(
            best, (model.score(rows[held_out], labels[held_out]), strength)
        )
    model.set_params(logisticregression__C=best[1])
    model.fit(rows, labels)
    top1 = model.score(tests, truth)
    seconds = time.perf_counter() - start
    print(f"scikit-learn, C {best[1]:g}: {100 * top1:.2f} %, {seconds:.1f} s")


if __name__ == "__main__":
    main()
