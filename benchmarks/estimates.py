"""What `doctor` says of memory and time, against a run of the same.

python benchmarks/estimates.py --images=photos
python benchmarks/estimates.py --images=photos --only=quickstart

Five configurations, on the CPU, without kNN. Each is examined by `moco-tf
doctor` and then trained by `moco-tf pretrain` for some steps, each in a process
of its own. Memory is the largest resident size of the run; time is that of its
steps after the first row of metrics.csv, which has the tracing in it, against
the doctor's seconds a step. Exits 1 beyond 20 % of memory or 25 % of time.
"""

import argparse
import csv
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

LIMITS = {"memory": 0.20, "time": 0.25}
# Of a run, and of a row of its figures. Rows are few: what is read of queue and
# encoders for each (0.1 s of 65,536 keys and a ResNet-18) is not the step's.
_STEPS, _EVERY = 18, 9
CASES = {
    "quickstart": (
        "quickstart",
        {"data.source": "shapes:train", "train.batch_size": 128},
    ),
    "CIFAR ResNet-18": (
        "moco_cifar10",
        {"train.batch_size": 64, "model.bn_groups": 4},
    ),
    "the same in bfloat16": (
        "moco_cifar10",
        {
            "train.batch_size": 64,
            "model.bn_groups": 4,
            "train.precision": "mixed_bfloat16",
        },
    ),
    "SimCLR ResNet-18": ("simclr_cifar10", {"train.batch_size": 32}),
    "ResNet-18, 128 px": (
        "moco_v2_imagenet",
        {
            "model.backbone": "resnet18",
            "data.image_size": 128,
            "train.batch_size": 16,
            "model.bn_groups": 2,
        },
    ),
}


def main():
    parser = argparse.ArgumentParser(description="Forecasts against runs.")
    parser.add_argument("--images", required=True, help="a folder")
    parser.add_argument("--only", default="", help="name of a configuration")
    options = parser.parse_args()
    missed = 0
    print(f"{'':<22}{'GB said':>9}{'peak':>7}{'s said':>9}{'step':>7}")
    for name, (preset, fields) in CASES.items():
        if options.only in ("", name):
            missed += _compare(name, preset, fields, options.images)
    return 1 if missed else 0


def _compare(name, preset, fields, images):
    """Examines and trains a configuration; how many limits are missed."""
    fields = {"data.source": f"folder:{images}"} | fields
    fields |= {"knn.bank": "", "knn.query": "", "knn.baseline": "false"}
    fields |= {"train.max_steps": _STEPS, "log.every_steps": _EVERY}
    fields |= {"log.tensorboard": "false"}
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    words = [f"--config={preset}", "--devices=cpu", *flags]
    with tempfile.TemporaryDirectory() as folder:
        table, workdir = f"{folder}/table.json", pathlib.Path(folder) / "run"
        _run(["doctor", *words, f"--json={table}", "--trial_steps=8"])
        rows = json.loads(pathlib.Path(table).read_text())["checks"]
        said = {row["check"]: row["finding"] for row in rows}
        peak = _run(["pretrain", *words, f"--workdir={workdir}"])
        with (workdir / "metrics.csv").open(newline="") as file:
            figures = [*csv.DictReader(file)][1:]
    rates = [x["images_per_second"] for x in figures]
    batch = fields["train.batch_size"]
    steps = [batch / float(rate) for rate in rates if rate]
    step = sum(steps) / len(steps)
    memory = _bytes(re.search(r"([\d.]+ \wB) at the peak", said["memory"])[1])
    seconds = float(re.search(r"steps of ([\d.e-]+) s", said["time"])[1])
    print(
        f"{name:<22}{memory / 1e9:>9.2f}{peak / 1e9:>7.2f}{seconds:>9.3f}"
        f"{step:>7.3f}",
        flush=True,
    )
    misses = abs(memory / peak - 1) > LIMITS["memory"]
    return misses + (abs(seconds / step - 1) > LIMITS["time"])


def _bytes(text):
    number, unit = text.split()
    return float(number) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]


def _run(words):
    """Runs a command; the bytes of its largest resident size."""
    command = [sys.executable, "-m", "moco_tf", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        # Of this child alone, where getrusage would have that of all.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode and words[0] == "pretrain":
        sys.exit(f"{' '.join(words)}: status {process.returncode}")
    return usage.ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
