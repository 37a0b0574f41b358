"""What the benchmarks share: command lines, a synthetic batch, rounds."""

import argparse
import math
import os
import pathlib
import re
import statistics
import time

from moco_tf import config as configs
from moco_tf.cli import quiet

# What benchmarks of the input change in a configuration.
INPUT = {"train.batch_size": "64", "model.bn_groups": "1"}
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def parser(purpose, config):
    """Returns a parser with the flags that all benchmarks of a step have.

    Args:
      purpose: str, shown by --help.
      config: name of the configuration that is measured by default.
    """
    command_line = argparse.ArgumentParser(
        description=purpose,
        epilog="--config.SECTION.FIELD=VALUE overrides a field.",
        allow_abbrev=False,
    )
    command_line.add_argument("--config", default=config, help=f"[{config}]")
    command_line.add_argument("--devices", default="cpu", help="[cpu]")
    command_line.add_argument(
        "--cores", type=int, default=2, help="cores in use; 0 = all [2]"
    )
    return command_line


def parse(command_line, defaults):
    """Reads the command line and prepares the process.

    Args:
      command_line: ArgumentParser.
      defaults: dict "section.field" -> text, what the benchmark changes in the
        configuration; the command line goes before.

    Returns:
      options, ConfigDict.

    Side effects: keeps the process to `cores` cores; hides TensorFlow's
    notices. Call it before TensorFlow's import.
    """
    options, words = command_line.parse_known_args()
    overrides = {**defaults, **config_overrides(command_line, words)}
    if options.cores:
        if not hasattr(os, "sched_setaffinity"):
            command_line.error(
                "cores cannot be chosen on this system: --cores=0"
            )
        allowed = sorted(os.sched_getaffinity(0))[: options.cores]
        os.sched_setaffinity(0, allowed)
        overrides.setdefault("data.threads", str(len(allowed)))
    quiet.prepare()
    try:
        return options, configs.load(options.config, overrides)
    except ValueError as error:
        command_line.error(str(error))


def config_overrides(command_line, words):
    """Returns "section.field" -> text of words --config.section.field=text."""
    overrides = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key.startswith("--config.") or not equals:
            command_line.error(f"not understood: {word}")
        overrides[key.removeprefix("--config.")] = value
    return overrides


def synthetic_batches(config, strategy):
    """Returns one batch of noise, in memory and repeated for ever."""
    from moco_tf import benchmark  # here: `parse` comes before TensorFlow

    return benchmark.noise(config, strategy)


def time_steps(train_function, iterator, steps):
    """Returns the seconds of some steps, the last one's result included."""
    start = time.perf_counter()
    for _ in range(steps):
        metrics = train_function(iterator)
    loss = float(metrics["loss"])
    seconds = time.perf_counter() - start
    if not math.isfinite(loss):
        raise FloatingPointError(f"The loss is {loss}: nothing was measured.")
    return seconds


def alternate(runs, rounds):
    """Times functions in turns, so that a drift of the machine hits all alike.

    Args:
      runs: dict name -> function without arguments that returns seconds.
      rounds: int; each second one goes through the functions backwards.

    Returns:
      dict name -> list of seconds, one for each round.

    Side effects: prints each round.
    """
    seconds = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            seconds[name].append(runs[name]())
        texts = [f"{name} {seconds[name][-1]:.3f} s" for name in runs]
        print(f"round {number + 1}/{rounds}  " + "  ".join(texts), flush=True)
    return seconds


def medians(seconds):
    """Returns the median of each list of `alternate`."""
    return {name: statistics.median(times) for name, times in seconds.items()}


def machine():
    """The processor in words: model, cores, and what it computes with."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.M)
    flags = re.search(r"^flags\s*:\s*(.*)$", text, re.M)
    known = set(flags[1].split()) if flags else set()
    name = model[1].strip() if model else "unknown processor"
    parts = [name, f"{os.cpu_count()} cores"]
    return ", ".join([*parts, *(flag for flag in _CPU_FLAGS if flag in known)])
