"""Torch's layout of our encoders' tensors, and the reference cases' weights."""

import numpy as np


def named_variables(encoder):
    """Maps torch's state-dict names to (variable, is moving statistic).

    Args:
      encoder: Encoder with a ResNet backbone.

    Returns:
      dict in the order of torchvision's state dict, then the head.
    """
    parts = {"kernel": "weight", "gamma": "weight", "beta": "bias"}
    parts |= {"moving_mean": "running_mean"}
    parts |= {"moving_variance": "running_var"}
    order = ["weight", "bias", "running_mean", "running_var"]
    named = {}
    for model in (encoder.backbone, encoder.head):
        for layer in model.layers:
            for variable in layer.weights:
                part = variable.name.split("/")[-1].split(":")[0]
                named[f"{layer.name}.{parts.get(part, part)}"] = variable

    def place(name):
        layer, part = name.rsplit(".", 1)
        head = layer.startswith("fc")
        path = [
            (1, int(key)) if key.isdigit() else (0, key)
            for key in layer.split(".")
        ]
        return head, _block_order(layer), path, order.index(part)

    return dict(sorted(named.items(), key=lambda item: place(item[0])))


def _block_order(layer):
    """(stage, block, position in the block) of a torchvision layer name."""
    parts = layer.split(".")
    if len(parts) == 1 or parts[0] == "fc":
        number = int(parts[-1][-1]) if parts[-1][-1].isdigit() else 0
        return (0, 0, number, int("bn" in parts[0]))
    stage, block = int(parts[0][-1]), int(parts[1])
    if parts[2] == "downsample":
        return (stage, block, 9, int(parts[3]))
    return (stage, block, int(parts[2][-1]), int("bn" in parts[2]))


def to_torch(value):
    """HWIO to OIHW and [in, out] to [out, in]."""
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.T if value.ndim == 2 else value


def from_torch(value):
    """OIHW to HWIO and [out, in] to [in, out]."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.T if value.ndim == 2 else value


def reference_weights(named, seed):
    """The seeded weights of a reference case, in torch's layout.

    Args:
      named: dict of `named_variables`.
      seed: int of the case.

    Returns:
      dict name -> float32 array (see tests/reference/README.md, "Weights").
    """
    rng = np.random.default_rng(seed)
    values = {}
    for name, variable in named.items():
        shape = to_torch(variable.numpy()).shape
        if name.endswith("running_mean"):
            value = np.zeros(shape, np.float32)
        elif name.endswith("running_var"):
            value = np.ones(shape, np.float32)
        elif len(shape) == 4:
            value = rng.standard_normal(shape, dtype=np.float32) * np.float32(
                np.sqrt(2 / (shape[0] * shape[2] * shape[3]))
            )
        elif len(shape) == 2:
            value = rng.standard_normal(shape, dtype=np.float32) * np.float32(
                np.sqrt(1 / shape[1])
            )
        elif name.startswith("fc"):
            value = np.zeros(shape, np.float32)
        elif name.endswith("weight"):
            value = 1 + 0.1 * rng.standard_normal(shape, dtype=np.float32)
            if name.endswith("bn3.weight"):
                value = value * 0.2
        else:
            value = 0.1 * rng.standard_normal(shape, dtype=np.float32)
        values[name] = value.astype(np.float32)
    return values
