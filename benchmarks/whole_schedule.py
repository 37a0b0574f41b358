"""Whole schedules on CIFAR-10: ours and an independent twin, epoch by epoch.

python benchmarks/whole_schedule.py --data=DIR --twin_python=TORCH/bin/python
python benchmarks/whole_schedule.py --data=DIR --only=ours_float32_0 \\
    --epochs_now=10
python benchmarks/whole_schedule.py --page_only

DIR has train/CLASS/*.jpg and test/CLASS/*.jpg. Nine runs of 50 epochs, one
after the other: ours in float32 and in bfloat16, and twin/twin.py, with three
seeds each. Started again, the script goes on with each run from its last
checkpoint. The twin needs a Python with torch and Pillow, in an environment of
its own (pip install torch==2.13.0 pillow).

Every epoch adds a line to --results, where lines of other machines stay;
--add=FILE takes in the results of another machine. At the end the page and its
plot are written from all of them.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import re
import secrets
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import measure
import whole_schedule_page as page

from moco_tf import cores, filesystem
from moco_tf.monitoring import metrics_csv

HERE = pathlib.Path(__file__).resolve().parent
PER_CLASS = 1000
STEPS_PER_EPOCH = 39  # 10,000 images in batches of 256
FIELDS = {
    "model.width": 0.25,
    "train.batch_size": 256,
    "moco.queue_size": 2048,
    "optimizer.learning_rate": 0.03,
    "train.epochs": page.EPOCHS,
    "log.every_steps": STEPS_PER_EPOCH,
    "log.tensorboard": "false",
    "knn.baseline": "true",
}
_UNTRAINED = re.compile(r"untrained encoder \(projection\) ([\d.]+) %")


class Run(NamedTuple):
    """A run of the schedule.

    Attributes:
      kind: str, one of page.TITLES. seed: int. folder: Path, of all runs.
    """

    kind: str
    seed: int
    folder: pathlib.Path

    @property
    def name(self):
        return f"{self.kind}_{self.seed}"

    def path(self, ending=""):
        """A file of this run; without an ending the workdir."""
        return self.folder / f"{self.name}{ending}"

    def command(self, options, stop):
        """The words that train until the end of epoch `stop`."""
        if self.kind == "twin":
            return [
                options.twin_python,
                HERE / "twin" / "twin.py",
                f"--data={options.data}",
                f"--seed={self.seed}",
                f"--output={self.path('.jsonl')}",
                f"--threads={cores.count()}",
                f"--stop_after={stop}",
            ]
        listed = f"list:{self.folder / 'first_1000.txt'}"
        fields = FIELDS | {
            "seed": self.seed,
            "train.precision": self.kind.removeprefix("ours_"),
            "train.max_steps": stop * STEPS_PER_EPOCH,
            "data.source": listed,
            "knn.bank": listed,
            "knn.query": f"folder:{options.data / 'test'}",
        }
        return [
            *(sys.executable, "-m", "moco_tf", "pretrain"),
            *("--config=moco_cifar10", f"--workdir={self.path()}"),
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ]

    def has_checkpoint(self):
        """Whether there is something to go on from."""
        if self.kind == "twin":
            return self.path(f".seed{self.seed}.pt").exists()
        return any((self.path() / "checkpoints").glob("step-*/meta.json"))

    def starts(self):
        """The starts so far, list of dict: "origin" and "machine"."""
        return read_lines(self.path(".starts"))

    def note_start(self):
        """Adds a start; the first gives the run its name among attempts."""
        starts = self.starts()
        origin = starts[0]["origin"] if starts else secrets.token_hex(4)
        with self.path(".starts").open("a") as file:
            line = {"origin": origin, "machine": measure.machine()}
            file.write(json.dumps(line) + "\n")

    def finished(self):
        """The figures of the epochs that are finished, dict by epoch.

        Each has "loss", the mean over the epoch's steps, "knn_backbone" and
        "knn_output" in percent, and "seconds"; None where there is none. Epoch
        0 is the untrained encoder.
        """
        if self.kind == "twin":
            return {
                line["epoch"]: line for line in read_lines(self.path(".jsonl"))
            }
        return read_ours(self.path() / "metrics.csv", self.path(".log"))


def read_ours(metrics, log):
    """The figures of a workdir of moco-tf, as Run.finished has them.

    Args:
      metrics: Path of metrics.csv. log: Path of what the run printed.
    """
    figures = {}
    if log.exists():
        text = log.read_text(errors="replace")
        for untrained in _UNTRAINED.findall(text)[:1]:
            figures[0] = _figures(None, None, float(untrained))
    for row in metrics_csv.read(metrics) if metrics.exists() else []:
        # Both come at the end of an epoch, the loss as the mean of its rows.
        if None not in (row["epoch_loss"], row["knn_projection"]):
            figures[row["epoch"]] = _figures(
                round(row["epoch_loss"], 4),
                round(100 * row["knn_backbone"], 2),
                round(100 * row["knn_projection"], 2),
            )
    return figures


def _figures(loss, backbone, output):
    return {
        "loss": loss,
        "knn_backbone": backbone,
        "knn_output": output,
        "seconds": None,
    }


def read_lines(path):
    """The lines of a file of JSON; a last one that was torn is left out.

    Raises:
      SystemExit: for another line that is not JSON. The file stays as it is.
    """
    text = path.read_text() if path.exists() else ""
    read = []
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            read.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines) or text.endswith("\n"):
                sys.exit(f"{path} is damaged at line {number}: {line!r}")
    return read


def rows_of(run, seconds):
    """The rows of the results that a run has now.

    Args:
      run: Run. seconds: dict by epoch, of those that were watched.
    """
    starts = run.starts()
    if not starts:
        return []
    return [
        {
            "run": run.kind,
            "seed": run.seed,
            "epoch": epoch,
            "loss": figures["loss"],
            "knn_backbone": figures["knn_backbone"],
            "knn_output": figures["knn_output"],
            "seconds": seconds.get(epoch, figures["seconds"]),
            "resumed": len(starts) - 1,
            "machine": starts[-1]["machine"],
            "origin": starts[0]["origin"],
        }
        for epoch, figures in sorted(run.finished().items())
    ]


def merge(rows, others):
    """Adds rows to rows; what stands there stays.

    Returns:
      list of dict, in the order of runs, seeds and epochs. A row is that of an
      attempt (its origin) and an epoch; of two, the first fills its gaps (None)
      from the second and keeps the rest.
    """
    merged = {}
    for row in [*rows, *others]:
        key = _key(row)
        there = merged.setdefault(key, {})
        for name, value in row.items():
            if there.get(name) is None:
                there[name] = value
    return [merged[key] for key in sorted(merged)]


def _key(row):
    if "what" in row:
        return ("", 0, row["what"], 0)
    return (row["run"], row["seed"], row["origin"], row["epoch"])


def read_added(path):
    """The rows of another file of results.

    One whose rows have no origin is of earlier runs by other scripts: they are
    kept apart from the nine runs, with the line that says what they are.

    Raises:
      SystemExit: if there is no such file.
    """
    if not path.is_file():
        sys.exit(f"--add={path} is no file.")
    rows = []
    for row in read_lines(path):
        if "epoch" in row and "origin" not in row:
            row = row | {"run": f"earlier_{row['run']}", "origin": "earlier"}
        rows.append(row)
    return rows


def update(results, rows):
    """Merges rows into the file of results, at once or not at all.

    Returns:
      list of dict, all rows.
    """
    before = read_lines(results)
    merged = merge(before, rows)
    if merged != before:
        results.parent.mkdir(parents=True, exist_ok=True)
        with filesystem.atomic_file(results) as part:
            lines = [json.dumps(row) + "\n" for row in merged]
            part.write_text("".join(lines))
    return merged


def write_list(data, folder):
    """Writes the list of the training images: the first of each class.

    Raises:
      SystemExit: if a class has too few of them, or there is none.
    """
    lines = []
    classes = sorted(p for p in (data / "train").glob("*") if p.is_dir())
    for path in classes:
        files = sorted(path.glob("*.jpg"))[:PER_CLASS]
        if len(files) < PER_CLASS:
            sys.exit(
                f"{path} must have {PER_CLASS} files *.jpg. Received "
                f"{len(files)}."
            )
        lines += [f"{os.path.abspath(file)}\t{path.name}\n" for file in files]
    if not (classes and (data / "test").is_dir()):
        sys.exit(
            f"--data={data} must have train/CLASS/*.jpg and test/CLASS/*.jpg."
        )
    with filesystem.atomic_file(folder / "first_1000.txt") as part:
        part.write_text("".join(lines))


@contextlib.contextmanager
def alone(folder):
    """Keeps other starts of the script out of a folder; yields the lock.

    A run that outlives the script has the lock too, until it ends.
    """
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"A run goes on in {folder}: wait for its end, or end it.")
        yield file.fileno()


class Watch:
    """Takes the figures of a run that trains into the results."""

    def __init__(self, run, results):
        """Starts the clock of the first epoch: start-up is in its time."""
        self._run, self._results = run, results
        self._seen = set(run.finished())
        self._seconds, self._since = {}, time.monotonic()

    def look(self):
        """Writes and prints the epochs that came since the last look."""
        new = set(self._run.finished()) - self._seen
        if not new:
            return
        now = time.monotonic()
        if self._run.kind != "twin":  # which tells its own
            self._seconds[max(new)] = round(now - self._since, 1)
        self._seen |= new
        self._since = now
        rows = rows_of(self._run, self._seconds)
        update(self._results, rows)
        print(f"  {json.dumps(rows[-1])}", flush=True)


def advance(run, options, lock):
    """Trains a run until its end, or some epochs, and collects its figures.

    Returns:
      str, why it did not come as far as it should, or "".
    """
    done = max(run.finished(), default=0)
    stop = page.EPOCHS
    if options.epochs_now:
        stop = min(stop, done + options.epochs_now)
    update(options.results, rows_of(run, {}))  # of a start that was killed
    if done >= stop:
        print(f"{run.name}: has all {done} epochs", flush=True)
        return ""
    if done and not run.has_checkpoint():
        return (
            f"{run.name} has figures of {done} epochs and no checkpoint: bring "
            f"it back, or move {run.path()}* away to begin anew"
        )
    run.note_start()
    print(f"{run.name}: from epoch {done} to {stop}", flush=True)
    watch = Watch(run, options.results)
    with run.path(".log").open("ab") as log:
        process = subprocess.Popen(
            run.command(options, stop),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            pass_fds=(lock,),
            # Ctrl-C is for this script. Not a session of its own: Linux may
            # give that its own share of the processor, whatever is nice.
            process_group=0,
        )
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            watch.look()
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
        watch.look()
    reached = max(run.finished(), default=0)
    if process.returncode or reached < stop:
        return (
            f"{run.name} ended with {process.returncode} at epoch {reached} of "
            f"{stop}: see {run.path('.log')}"
        )
    return ""


def parse():
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
        allow_abbrev=False,
    )
    results = HERE.parent / "docs" / "results"
    folder = pathlib.Path
    parser.add_argument("--data", type=folder, help="folder of CIFAR-10")
    parser.add_argument(
        "--runs", type=folder, default=folder("runs/whole_schedule")
    )
    parser.add_argument(
        "--results", type=folder, default=results / "whole_schedule.jsonl"
    )
    parser.add_argument("--write", type=folder, default=results, help="page")
    parser.add_argument("--only", default="", help="ours_float32_0,twin_2")
    parser.add_argument(
        "--epochs_now", type=int, default=0, help="of each run [0: all]"
    )
    parser.add_argument("--twin_python", default=sys.executable)
    parser.add_argument(
        "--add", type=folder, action="append", default=[], help="other results"
    )
    parser.add_argument("--page_only", action="store_true")
    options = parser.parse_args()
    if not options.page_only and options.data is None:
        parser.error("--data=DIR is needed for runs; --page_only for none")
    if options.epochs_now < 0:
        parser.error("--epochs_now must be 0 or more")
    return options


def chosen(options):
    """The runs that --only names, or all, in this order: seeds first.

    Raises:
      SystemExit: for a name that no run has.
    """
    runs = {
        run.name: run
        for seed in page.SEEDS
        for kind in page.TITLES
        for run in [Run(kind, seed, options.runs)]
    }
    names = [name for name in options.only.split(",") if name]
    unknown = [name for name in names if name not in runs]
    if unknown:
        sys.exit(
            f"--only must name runs of {', '.join(runs)}. Received "
            f"{', '.join(unknown)}."
        )
    return [run for name, run in runs.items() if name in names or not names]


def check_twin(python):
    """Ends the script if a Python cannot run the twin."""
    command = [python, "-c", "import numpy, PIL, torch"]
    try:
        missing = subprocess.run(command, capture_output=True).returncode
    except OSError:
        missing = True
    if missing:
        sys.exit(
            f"{python} has no torch, NumPy and Pillow, which the twin needs. "
            "Pass --twin_python=PATH of a Python that has them, or leave the "
            "twin out, as --only=ours_float32_0,ours_mixed_bfloat16_0 does."
        )


def main():
    options = parse()
    added = [row for path in options.add for row in read_added(path)]
    runs = [] if options.page_only else chosen(options)
    if any(run.kind == "twin" for run in runs):
        check_twin(options.twin_python)
    update(options.results, added)
    failures = []
    # As after Ctrl-C: the run is asked to end, and its figures are collected.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to end"))
    try:
        if runs:
            options.runs.mkdir(parents=True, exist_ok=True)
            with alone(options.runs) as lock:
                write_list(options.data, options.runs)
                for run in runs:
                    failures.append(advance(run, options, lock))
    finally:
        rows = read_lines(options.results)
        page.write(rows, options.write)
    if any(failures):
        sys.exit("\n".join(filter(None, failures)))


if __name__ == "__main__":
    main()
