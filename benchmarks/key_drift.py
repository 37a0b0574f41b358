"""How far keys drift in the queue, and whether queries tell by it.

python benchmarks/key_drift.py
python benchmarks/key_drift.py --config.moco.momentum=0.9 --steps=312

Trains a MoCo configuration and keeps, of 256 fixed images, the keys that its
key encoder would have made at each step. Printed every --every steps:

* drift: 1 - cosine of an image's key now and 1, 4, 16 steps ago, the mean;
* shared: the part of the change of 4 steps that is the same for all images,
  |mean change|^2 / mean |change|^2; 1: all keys moved alike;
* old: how much further other images' keys of 4 steps ago are from a query than
  those of now, in nats (cosine / temperature). Above 0 a query can lower its
  loss by telling old keys from new ones, without looking at the image;
* own and nearest: cosine of a query with its own key, and with the nearest of
  the other 255 keys of now.
"""

import collections

import measure

from moco_tf.cli import quiet

IMAGES = 256
AGES = (1, 4, 16)  # steps


def main():
    parser = measure.parser("How far keys drift in the queue.", "quickstart")
    parser.add_argument("--steps", type=int, default=312, help="[312]")
    parser.add_argument("--every", type=int, default=39, help="[39]")
    options, config = measure.parse(parser, {})
    with quiet.imports():
        from moco_tf import plan as plans
        from moco_tf.training import distribution
    if config.method != "moco":
        parser.error(f"--config must be of moco, not {config.method}")
    strategy = distribution.make_strategy(options.devices)
    plan = plans.make(config, strategy)
    method = plan.make_method(strategy)
    train = method.make_train_function()
    batches = iter(plan.batches.distribute(strategy, 0))
    query_views, key_views = probe(plan, strategy)
    kept = collections.deque(maxlen=max(AGES) + 1)
    titles = [f"drift {age}" for age in AGES]
    titles += ["shared", "old", "own", "nearest"]
    print(f"{'step':>6}" + "".join(f"{title:>10}" for title in titles))
    for step in range(1, options.steps + 1):
        train(batches)
        if (step - 1) % options.every >= options.every - max(AGES) - 1:
            kept.append(encode(method, method.key_encoder, key_views))
        if step % options.every == 0:
            queries = encode(method, method.query_encoder, query_views)
            row = figures(kept, queries, config.moco.temperature)
            print(
                f"{step:>6}" + "".join(f"{value:>10.4f}" for value in row),
                flush=True,
            )


def probe(plan, strategy):
    """Both views of 256 images, normalised float [256, H, W, 3] each.

    Of a stream of their own, many steps ahead, in the order of the samples.
    """
    import numpy as np

    queries, keys, count = [], [], 0
    for batch in plan.batches.distribute(strategy, plan.total_steps):
        order = np.argsort(batch["order"].numpy())
        queries.append(batch["query"].numpy())
        keys.append(batch["key"].numpy()[order])
        count += len(order)
        if count >= IMAGES:
            break
    return [np.concatenate(views)[:IMAGES] for views in (queries, keys)]


def encode(method, encoder, images):
    """Unit vectors float32 [256, C], as a step makes them.

    BatchNorm's moving statistics are put back: no step reads them, but the
    figures of kNN do.
    """
    import numpy as np
    import tensorflow as tf

    moving = encoder.non_trainable_variables
    before = [variable.numpy() for variable in moving]
    parts = np.split(images, max(1, len(images) // 128))
    vectors = [
        method.encode(
            encoder, method.normalize(tf.convert_to_tensor(part))
        ).numpy()
        for part in parts
    ]
    for variable, value in zip(moving, before, strict=True):
        variable.assign(value)
    return np.concatenate(vectors)


def figures(kept, queries, temperature):
    """The columns of a row.

    Args:
      kept: float32 [256, C] arrays, keys of one step after another, the last
        of now. queries: float32 [256, C]. temperature: float.
    """
    import numpy as np

    now = kept[-1]
    drift = [
        float(1 - np.mean(np.sum(now * kept[-1 - age], axis=1))) for age in AGES
    ]
    change = now - kept[-5]
    shared = np.sum(change.mean(0) ** 2) / np.mean(np.sum(change**2, axis=1))
    other = ~np.eye(len(now), dtype=bool)
    cosines = queries @ now.T
    old = np.mean((cosines - queries @ kept[-5].T)[other]) / temperature
    own = np.mean(np.diag(cosines))
    nearest = np.mean(np.max(np.where(other, cosines, -1), axis=1))
    return [*drift, float(shared), float(old), float(own), float(nearest)]


if __name__ == "__main__":
    main()
