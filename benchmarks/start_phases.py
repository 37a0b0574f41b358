"""Where the seconds from `moco-tf pretrain` to its first step go.

python benchmarks/start_phases.py --config=quickstart

Starts the command in a new process, in a new workdir, with timers around the
functions named below; what one of them calls of the others counts there alone.
Beside the seconds by the clock stand those of all its processors, which hold
where other work runs beside it too.
The words go to `moco-tf pretrain`; --config.knn.baseline=false leaves out the
kNN before training.
"""

import argparse
import contextlib
import functools
import importlib
import os
import subprocess
import sys
import tempfile
import time

STARTED = "MOCO_TF_STARTED"  # in the environment: seconds, of the parent
# What is printed -> the functions of which it is the time.
PHASES = {
    "XLA's and oneDNN's start": ("moco_tf.cli.quiet:start_xla",),
    "devices": ("moco_tf.training.distribution:make_strategy",),
    "images, their fingerprint": (
        "moco_tf.plan:open_source",
        "moco_tf.workdirs:restore_source",
    ),
    "the stream's plan": ("moco_tf.plan:make",),
    "encoders and optimiser": ("moco_tf.plan:Plan.make_method",),
    "kNN's sources": ("moco_tf.evaluation.monitor:of_run",),
    "workdir, listeners": (
        "moco_tf.workdirs:check",
        "moco_tf.workdirs:save",
        "moco_tf.pretrain:Files.__init__",
        "moco_tf.pretrain:make_listeners",
        "moco_tf.pretrain:make_callback",
    ),
    "kNN before training": ("moco_tf.pretrain:_measure_start",),
    "the stream's graph": ("moco_tf.data.stream:Stream.distribute",),
    "the rest of fit, to the first step": ("moco_tf.pretrain:_fit",),
}


class Clock:
    """Exclusive seconds of phases, one within another."""

    def __init__(self, started):
        self.seconds = {}
        self._stack = ["python, words, configuration"]
        self._last = started, 0.0

    def _count(self):
        now = time.time(), sum(os.times()[:4])  # its children's too
        name = self._stack[-1]
        before = self.seconds.get(name, (0.0, 0.0))
        self.seconds[name] = tuple(
            sum_ + end - start
            for sum_, end, start in zip(before, now, self._last, strict=True)
        )
        self._last = now

    @contextlib.contextmanager
    def phase(self, name):
        self._count()
        self._stack.append(name)
        try:
            yield
        finally:
            self._count()
            self._stack.pop()

    def stop(self):
        self._count()


def wrap(clock, name, place):
    """Puts a timer around a function that a module or class has."""
    path, _, attribute = place.partition(":")
    *parts, last = attribute.split(".")
    owner = functools.reduce(getattr, parts, importlib.import_module(path))
    function = getattr(owner, last)

    @functools.wraps(function)
    def timed(*args, **kwargs):
        with clock.phase(name):
            return function(*args, **kwargs)

    setattr(owner, last, timed)


class Reached(Exception):
    """The first step is done."""


def child(words):
    clock = Clock(float(os.environ[STARTED]))
    from moco_tf.cli import main as cli
    from moco_tf.cli import quiet

    with clock.phase("imports"):
        quiet.prepare()
        with quiet.imports():
            import moco_tf.pretrain  # noqa: F401
            from moco_tf.training import callbacks
    for name, places in PHASES.items():
        for place in places:
            wrap(clock, name, place)

    def end(callback, *_):
        callback.guard  # noqa: B018  # a StepCallback
        clock.stop()
        raise Reached

    callbacks.StepCallback.on_train_batch_end = end
    with contextlib.suppress(Reached):
        sys.exit(cli.run(["pretrain", *words]))
    total = map(sum, zip(*clock.seconds.values(), strict=True))
    rows = {"all, to the end of the first step": total} | clock.seconds
    for name, (seconds, processors) in rows.items():
        print(f"{seconds:6.2f} s  {processors:6.2f} s of processors  {name}")
    sys.stdout.flush()
    os._exit(0)  # threads of the stream would be waited for


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="All words go to `moco-tf pretrain`.",
        allow_abbrev=False,
    )
    _, words = parser.parse_known_args()
    if STARTED in os.environ:
        child(words)
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {STARTED: repr(time.time())}
        workdir = f"--workdir={os.path.join(folder, 'run')}"
        command = [sys.executable, __file__, *words, workdir]
        sys.exit(subprocess.run(command, env=environment).returncode)


if __name__ == "__main__":
    main()
