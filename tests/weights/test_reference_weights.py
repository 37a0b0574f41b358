"""Imported reference weights give the published implementation's logits."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import config as configs
from moco_tf.evaluation import frozen
from moco_tf.weights import conversion, importing
from tests.weights import small_weights

REFERENCE = pathlib.Path(__file__).resolve().parent.parent / "reference"


def _state(case):
    """The state dict of a case before its first step, and its images."""
    layout = small_weights.torch_layout
    encoder = frozen.build_encoder(
        configs.load(
            "moco_v2_imagenet",
            {
                "model.backbone": case["arch"],
                "model.head": "mlp" if case["mlp"] else "fc",
                "model.dim": str(case["dim"]),
                "data.image_size": str(case["size"]),
            },
        )
    )
    weights = layout.reference_weights(
        layout.named_variables(encoder), case["seed"]
    )
    rng = np.random.default_rng(case["seed"] + 1)
    queue = rng.standard_normal((case["K"], case["dim"]), dtype=np.float32)
    queue /= np.linalg.norm(queue, axis=1, keepdims=True)
    shape = (case["batch"], case["size"], case["size"], 3)
    query = rng.standard_normal(shape, dtype=np.float32)
    noise = rng.standard_normal(shape, dtype=np.float32)
    state = {
        "module.queue": np.ascontiguousarray(queue.T),
        "module.queue_ptr": np.array([0]),
    }
    for side in "qk":
        for name, value in weights.items():
            state[f"module.encoder_{side}.{name}"] = value
    return state, query, (query + 0.3 * noise).astype(np.float32)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_first_logits_are_those_of_the_reference(version, tmp_path):
    reference = np.load(REFERENCE / f"moco_{version}_resnet18_1replica.npz")
    case = json.loads(str(reference["config"]))
    state, query, key = _state(case)
    path = small_weights.write_moco(
        tmp_path / "m.pth.tar", state, layout="legacy", epoch=0
    )
    saved = importing.import_weights(
        path,
        tmp_path / "run",
        overrides={
            "data.image_size": str(case["size"]),
            "model.bn_groups": "1",  # the case ran on one replica
        },
    )
    config = frozen.load_config(tmp_path / "run")
    method = conversion.restore_method(config, saved)
    q = tf.math.l2_normalize(method.query_encoder(query, training=True), axis=1)
    k = tf.math.l2_normalize(method.key_encoder(key, training=True), axis=1)
    positive = tf.reduce_sum(q * k, axis=1, keepdims=True)
    logits = tf.concat([positive, q @ tf.transpose(method.queue.keys)], axis=1)
    expected = reference["logits_step0"]
    actual = logits.numpy()[:, : expected.shape[1]] / case["T"]
    # Cosines of float32 features: about a hundred roundings of 6e-8.
    np.testing.assert_allclose(
        actual * case["T"], expected * case["T"], atol=1e-5
    )
