"""Whether a step follows the gradient of a loss that is written in NumPy."""

import numpy as np


def weights(model):
    """Trainable values of a model, float64 arrays."""
    return [v.numpy().astype(np.float64) for v in model.trainable_variables]


def assert_downhill(loss, before, after, rate, rtol=2e-3):
    """Compares a step of plain SGD with finite differences of the loss.

    Args:
      loss: function of lists like `before`, one argument for each.
      before, after: lists (of parts) of lists of arrays.
      rate: the learning rate.
      rtol: float.
    """
    rng = np.random.default_rng(0)
    for part in range(len(before)):
        direction = [1e-5 * rng.standard_normal(w.shape) for w in before[part]]
        ends = []
        for sign in (1, -1):
            moved = list(before)
            moved[part] = [
                w + sign * d
                for w, d in zip(before[part], direction, strict=True)
            ]
            ends.append(loss(*moved))
        derivative = (ends[0] - ends[1]) / 2
        result = sum(
            np.sum((old - new) / rate * d)
            for old, new, d in zip(
                before[part], after[part], direction, strict=True
            )
        )
        np.testing.assert_allclose(result, derivative, rtol=rtol)
