"""DINO's steps against NumPy: loss, gradient, teacher, centre, temperature."""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.methods import dino
from tests.methods import finite_differences, numpy_moco, small_methods

STEPS, RATE, OUTPUTS = 10, 0.05, 5
TEMPERATURE, FIRST, LAST = 0.3, 0.1, 0.2


def _method(**arguments):
    tf.keras.utils.set_random_seed(0)
    options = {"frozen_epochs": 0, "warmup_epochs": 3} | arguments
    method = dino.DINO(
        small_methods.backbone(),
        STEPS,
        steps_per_epoch=2,
        head="fc",
        dim=4,
        outputs=OUTPUTS,
        temperature=TEMPERATURE,
        first_teacher_temperature=FIRST,
        teacher_temperature=LAST,
        momentum=0.6,
        center_momentum=0.7,
        **options,
    )
    return small_methods.compiled(method, RATE, decay=0.0)


def _outputs(encoder, kernel, images):
    unit = kernel / np.linalg.norm(kernel, axis=0)
    return numpy_moco.encode(encoder, images)[0] @ unit


def _softmax(logits):
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    return probabilities / probabilities.sum(1, keepdims=True)


def _loss(encoder, last, batch, probabilities):
    """Eq. 3: mean over pairs of a teacher's view and another of the student."""
    views = [batch["query"], batch["key"]]
    views += list(np.moveaxis(batch.get("small", np.zeros([0, 0])), 1, 0))
    logs = [
        np.log(_softmax(_outputs(encoder, last, view) / TEMPERATURE))
        for view in views
    ]
    terms = [
        -np.mean(np.sum(probabilities[teacher] * logs[student], axis=1))
        for teacher in (0, 1)
        for student in range(len(views))
        if student != teacher
    ]
    return np.mean(terms)


def _state(method):
    models = (
        method.query_encoder,
        method.last_layer,
        method.key_encoder,
        method.key_last_layer,
    )
    return [finite_differences.weights(model) for model in models]


def _step(method, batch, name="loss"):
    iterator = iter(tf.data.Dataset.from_tensors(batch))
    return float(method.make_train_function()(iterator)[name])


def _targets(state, batch, center, temperature):
    """The teacher's probabilities and outputs of both views."""
    _, _, key, key_last = state
    outputs = [_outputs(key, key_last[0], batch[n]) for n in ("query", "key")]
    return [_softmax((o - center) / temperature) for o in outputs], outputs


@pytest.mark.parametrize("small", [0, 2])
def test_each_step_is_algorithm_1(small):
    method = _method()
    center = np.zeros(OUTPUTS)
    for step, batch in enumerate(small_methods.batches(3, small=small)):
        state = _state(method)
        # Epoch 0 has steps 0 and 1; tau_t rises over epochs 0, 1 and 2.
        temperature = FIRST + (LAST - FIRST) * (step // 2) / 2
        wanted, outputs = _targets(state, batch, center, temperature)
        expected = _loss(state[0], state[1][0], batch, wanted)
        np.testing.assert_allclose(_step(method, batch), expected, rtol=1e-4)
        center = 0.7 * center + 0.3 * np.concatenate(outputs).mean(0)
        np.testing.assert_allclose(method.center, center, atol=1e-5)
        moved = _state(method)
        tau = 1 - 0.4 * (np.cos(np.pi * step / STEPS) + 1) / 2
        for student, old, teacher in (
            (moved[0], state[2], moved[2]),
            (moved[1], state[3], moved[3]),
        ):
            for new, before, result in zip(student, old, teacher, strict=True):
                np.testing.assert_allclose(
                    result, tau * before + (1 - tau) * new, atol=1e-6
                )


def test_the_first_step_goes_down_the_slope_of_the_loss():
    method = _method()
    batch = next(iter(small_methods.batches(1, small=2)))
    state = _state(method)
    wanted, _ = _targets(state, batch, 0.0, FIRST)
    clusters = _step(method, batch, "clusters")
    expected = numpy_moco.clusters(np.concatenate(wanted))
    np.testing.assert_allclose(clusters, expected, rtol=1e-4)
    finite_differences.assert_downhill(
        lambda encoder, last: _loss(encoder, last[0], batch, wanted),
        state[:2],
        _state(method)[:2],
        RATE,
    )


def test_the_last_layer_stands_still_in_the_first_epoch():
    method = _method(frozen_epochs=1)
    start = method.last_layer.kernel.numpy()
    for batch, still in zip(
        small_methods.batches(3), (True, True, False), strict=True
    ):
        _step(method, batch)
        same = np.array_equal(method.last_layer.kernel.numpy(), start)
        assert same == still


@pytest.mark.parametrize(
    ("warmup", "step", "expected"),
    [
        *[(3, 0, 0.1), (3, 2, 0.15), (3, 4, 0.2), (3, 99, 0.2)],
        *[(0, 0, 0.2), (1, 0, 0.1), (1, 1, 0.1), (1, 2, 0.2)],
    ],
)
def test_the_teachers_temperature_rises_by_epochs(warmup, step, expected):
    method = _method(warmup_epochs=warmup)
    result = method.teacher_temperature_at(tf.constant(step, tf.int64))
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_micro_batches_make_the_same_step():
    batch = next(iter(small_methods.batches(1, small=2)))
    at_once, parts = _method(), _method(micro_batches=2)
    for method in (at_once, parts):
        _step(method, batch)
    for left, right in zip(_state(at_once), _state(parts), strict=True):
        for one, other in zip(left, right, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="Temperatures must be above 0"):
        dino.DINO(small_methods.backbone(), 9, 3, head="fc", temperature=0.0)
