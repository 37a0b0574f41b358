"""The twin goes on from a checkpoint of ours: are its losses the same?

RUN=runs/whole_schedule/ours_float32_1
python benchmarks/whole_schedule.py --data=DIR --only=ours_float32_1 \\
    --epochs_now=13
cp -r $RUN/checkpoints/step-000000507 state   # the run keeps the last two
python benchmarks/whole_schedule.py --data=DIR --only=ours_float32_1 \\
    --epochs_now=4
python benchmarks/twin_continues.py --data=DIR --twin_python=TORCH/bin/python \\
    --checkpoint=state --metrics=$RUN/metrics.csv

The checkpoint's weights, statistics, queue and velocities are the twin's first
state, views, order and permutations the twin's own. Printed are the losses of
--epochs more of the schedule, the twin's beside those of --metrics.
"""

import argparse
import json
import pathlib
import re
import subprocess
import tempfile

import numpy as np
import whole_schedule

from moco_tf import cores
from moco_tf.monitoring import metrics_csv
from moco_tf.training import checkpoints

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
# Of a layer in a checkpoint: its variable -> torch's name, in the order in
# which the optimiser has their velocities.
_NAMES = {
    "conv": {"kernel": "weight"},
    "norm": {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    },
    "head": {"kernel": "weight", "bias": "bias"},
}


def layers_of(names, encoder):
    """The layers of an encoder with weights, in the order they were made.

    Args:
      names: of the checkpoint's variables.
      encoder: "query_encoder" or "key_encoder".

    Returns:
      list of (kind, number among its kind, name before the variable's).
    """
    pattern = re.compile(rf"(model/{encoder}/backbone/\D+(\d+))/(\w+)")
    kinds = {}
    for match in filter(None, map(pattern.match, names)):
        kind = "conv" if match[3] == "kernel" else "norm"
        kinds[int(match[2])] = (kind, match[1])
    counts, layers = {"conv": 0, "norm": 0}, []
    for _, (kind, name) in sorted(kinds.items()):
        layers.append((kind, counts[kind], name))
        counts[kind] += 1
    return [*layers, ("head", 0, f"model/{encoder}/head/layer_with_weights-0")]


def state_of(checkpoint):
    """What the twin takes up of a checkpoint.

    Args:
      checkpoint: Path, of a step's folder.

    Returns:
      dict of arrays in torch's layout: "ENCODER/KIND/NUMBER/NAME", "velocity/
      KIND/NUMBER/NAME", "queue", "pointer".
    """
    with checkpoints.reader(checkpoint) as reader:
        return _read(reader)


def _read(reader):
    names = reader.get_variable_to_shape_map()
    state = {
        name: reader.get_tensor(f"model/queue/{there}{_VALUE}")
        for name, there in (("queue", "keys"), ("pointer", "pointer"))
    }
    velocities = 0
    for encoder in ("query_encoder", "key_encoder"):
        for kind, number, layer in layers_of(names, encoder):
            for variable, name in _NAMES[kind].items():
                key = f"{kind}/{number}/{name}"
                array = reader.get_tensor(f"{layer}/{variable}{_VALUE}")
                state[f"{encoder}/{key}"] = _in_torch(array)
                if encoder == "query_encoder" and "running" not in name:
                    velocities += 1  # the first is 1: 0 is the step
                    there = f"model/optimizer/_variables/{velocities}{_VALUE}"
                    state[f"velocity/{key}"] = _in_torch(
                        reader.get_tensor(there)
                    )
    return state


def _in_torch(array):
    """Outputs first: kernels of convolutions and of linear layers."""
    orders = {4: (3, 2, 0, 1), 2: (1, 0)}
    return np.ascontiguousarray(
        array.transpose(orders.get(array.ndim, range(array.ndim)))
    )


def parse():
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
        allow_abbrev=False,
    )
    folder = pathlib.Path
    parser.add_argument("--data", type=folder, required=True)
    parser.add_argument("--checkpoint", type=folder, required=True)
    parser.add_argument("--metrics", type=folder, required=True)
    parser.add_argument("--twin_python", required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main():
    """Runs the twin and prints the losses."""
    options = parse()
    meta = json.loads((options.checkpoint / "meta.json").read_text())
    epoch = round(meta["epoch"])
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "state.npz"
        np.savez(path, **state_of(options.checkpoint))
        done = subprocess.run(
            [
                options.twin_python,
                whole_schedule.HERE / "twin" / "from_ours.py",
                *(f"--state={path}", f"--data={options.data}"),
                *(f"--epoch={epoch}", f"--epochs={options.epochs}"),
                *(f"--seed={options.seed}", f"--threads={cores.count()}"),
            ],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    ours = {
        row["epoch"]: row["epoch_loss"]
        for row in metrics_csv.read(options.metrics)
        if row["epoch_loss"] is not None
    }
    print("epoch  twin   ours")
    for number, loss in map(str.split, done.stdout.splitlines()):
        there = ours.get(int(number))
        cell = "" if there is None else f"{there:.3f}"
        print(f"{number:>5}  {float(loss):.3f}  {cell}")


if __name__ == "__main__":
    main()
