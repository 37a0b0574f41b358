"""The scripts in examples/ run, and compute what the product does."""

import functools
import importlib.util
import pathlib

import numpy as np
import tensorflow as tf

from moco_tf.data import sources, stream, views
from moco_tf.methods import moco
from moco_tf.models import batch_norm, encoder
from moco_tf.training import optimizers

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS = 3


def _example(name):
    path = ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _losses_of_the_product(example):
    """The logged losses of moco.MoCo in the example's setting."""
    tf.keras.utils.set_random_seed(0)
    backbone = encoder.build_backbone(
        "resnet18",
        width=0.25,
        stem="cifar",
        norm=functools.partial(batch_norm.BatchNorm, splits=example.GROUPS),
        image_size=example.SIZE,
    )
    recipe = views.RECIPES["cifar"]
    method = moco.MoCo(
        backbone,
        queue_size=example.QUEUE,
        momentum=example.MOMENTUM,
        temperature=example.TEMPERATURE,
        shuffle_keys="address",
        dim=example.DIM,
        mean=recipe.mean,
        std=recipe.std,
    )
    method.compile(
        optimizers.MomentumSGD(
            example.RATE, example.SGD_MOMENTUM, example.WEIGHT_DECAY
        )
    )
    source = sources.open_source("shapes:test")
    batches = stream.Stream(
        source, recipe, example.SIZE, example.BATCH, shuffle_keys="address"
    )
    strategy = tf.distribute.get_strategy()
    iterator = iter(batches.distribute(strategy, 0))
    step = method.make_train_function()
    for _ in range(STEPS):
        step(iterator)
    return method.step_log.read(0, STEPS)["loss"]


def test_the_loop_of_moco_takes_the_steps_of_the_product(capsys):
    example = _example("moco")
    losses = example.main(STEPS)
    expected = _losses_of_the_product(example)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"step {number:>3}  loss {loss:.4f}"
        for number, loss in enumerate(losses, start=1)
    ]
