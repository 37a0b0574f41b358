"""Trains the twin from a state of moco_tf, which twin_continues.py writes.

python from_ours.py --state=state.npz --data=DIR --epoch=13 --epochs=4

Prints each epoch of the schedule and its loss.
"""

import argparse
import os
from pathlib import Path

import numpy as np

# Before torch, as in twin.py.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
import torch  # noqa: E402
import twin as twins  # noqa: E402
import views  # noqa: E402
from torch import nn  # noqa: E402


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epoch", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--last_epoch", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def tensors_of(encoder, arrays, prefix):
    """What there is of an encoder in a state: (its tensor, the array) pairs."""
    kinds = {
        "conv": [m for m in encoder.modules() if isinstance(m, nn.Conv2d)],
        "norm": [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)],
        "head": [encoder.head],
    }
    pairs = []
    for kind, modules in kinds.items():
        for number, module in enumerate(modules):
            for name, tensor in module.state_dict(keep_vars=True).items():
                key = f"{prefix}/{kind}/{number}/{name}"
                if key in arrays:
                    array = torch.from_numpy(arrays[key])
                    assert array.shape == tensor.shape, key
                    pairs.append((tensor, array))
    return pairs


def take_up(twin, arrays):
    """Gives the twin the encoders, the queue and the velocities of a state."""
    for name in ("query_encoder", "key_encoder"):
        pairs = tensors_of(getattr(twin, name), arrays, name)
        assert len(pairs) == sum(key.startswith(name) for key in arrays)
        for tensor, array in pairs:
            tensor.data.copy_(array)
    pairs = tensors_of(twin.query_encoder, arrays, "velocity")
    assert len(pairs) == len(list(twin.query_encoder.parameters()))
    for parameter, velocity in pairs:
        twin.optimizer.state[parameter]["momentum_buffer"] = velocity.clone()
    twin.queue = torch.from_numpy(arrays["queue"])
    twin.pointer = int(arrays["pointer"])


def main():
    """Trains the epochs after the state's."""
    args = parse()
    torch.set_num_threads(args.threads)
    twin = twins.Twin(args.seed, 0.25)
    take_up(twin, dict(np.load(args.state)))
    images, _ = views.load_images(args.data / "train", 1000)
    (group,) = twin.optimizer.param_groups
    for epoch in range(args.epoch + 1, args.epoch + args.epochs + 1):
        group["lr"] = twins.rate_of(epoch, args.last_epoch)
        print(epoch, twin.train(images), flush=True)


if __name__ == "__main__":
    main()
