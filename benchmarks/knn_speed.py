"""kNN against the matrix product in it: 10,000 queries, 50,000 x 512 features.

python benchmarks/knn_speed.py
python benchmarks/knn_speed.py --queries=2000 --bank=5000 --rounds=1   # quick

In one process, rounds of `voting.sweep` (search, vote and accuracy, k = 200)
alternate with rounds of the blocked product of all queries with all of the bank
alone. Exits 1 if the median of their ratios is above 2, or if the search takes
more than 1 GB beside the features.
"""

import argparse
import resource
import statistics
import sys
import time

import numpy as np

RATIO, GIGABYTES = 2.0, 1.0


def main():
    parser = argparse.ArgumentParser(
        description="kNN against its matrix product.", allow_abbrev=False
    )
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--bank", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--k", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    from moco_tf.cli import quiet

    quiet.prepare()
    with quiet.imports():
        import tensorflow as tf

        from moco_tf.evaluation import voting
    random = np.random.default_rng(0)
    bank = random.normal(size=(options.bank, options.features))
    query = random.normal(size=(options.queries, options.features))
    bank, query = bank.astype(np.float32), query.astype(np.float32)
    bank_labels = random.integers(0, 10, options.bank)
    query_labels = random.integers(0, 10, options.queries)
    multiply = tf.function(lambda a, b: tf.matmul(a, b, transpose_b=True))

    def product():
        all_rows = tf.constant(bank)
        for start in range(0, len(query), voting.QUERY_BLOCK):
            multiply(
                tf.constant(query[start : start + voting.QUERY_BLOCK]), all_rows
            )

    def search():
        voting.sweep(
            bank, bank_labels, query, query_labels, [options.k], [0.1], 10
        )

    product()  # traces and reserves memory
    before = _resident()
    search()
    used = _resident() - before
    ratios = []
    for number in range(options.rounds):
        seconds = [_time(product), _time(search)]
        ratios.append(seconds[1] / seconds[0])
        print(
            f"round {number + 1}: product {seconds[0]:.2f} s, kNN "
            f"{seconds[1]:.2f} s, ratio {ratios[-1]:.2f}",
            flush=True,
        )
    ratio = statistics.median(ratios)
    print(
        f"{options.queries} queries, bank {options.bank} x {options.features}, "
        f"k {options.k}: {ratio:.2f} times the product (median; limit "
        f"{RATIO:g}), {used:.2f} GB (limit {GIGABYTES:g})"
    )
    if ratio > RATIO or used > GIGABYTES:
        sys.exit("beyond the limits")


def _time(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _resident():
    """Peak resident gigabytes of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, else KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * unit / 1e9


if __name__ == "__main__":
    main()
