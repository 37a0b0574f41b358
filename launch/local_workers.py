"""Starts N workers of one command on this machine, again when one is lost.

python launch/local_workers.py --count=2 -- moco-tf pretrain --config=...

Every worker gets the command with --workers and --worker_index added, and
writes to a log of its own. Exit statuses: launch/README.md. With DRY_RUN=1 the
commands are printed and nothing is started.
"""

import argparse
import math
import os
import pathlib
import shlex
import signal
import sys
import time

import local_worker

INTERRUPTED = 130
_PERIOD = 0.05  # seconds between two looks at the workers
_GOOD_ROUND = 300.0  # seconds; after such a round the pauses begin anew


def parse(argv):
    """Reads the command line.

    Args:
      argv: list of str, without the program's name.

    Returns:
      options; command, a list of str.

    Raises:
      SystemExit: with status 2, for words that are not understood.
    """
    parser = argparse.ArgumentParser(
        prog="local_workers.py",
        usage="%(prog)s --count=N [flags] -- COMMAND ...",
        description="Runs N local workers of a command to their end.",
        allow_abbrev=False,
    )
    for name, default, text in (
        ("--count", 0, "number of workers"),
        ("--log_dir", "runs/workers", "folder of worker-0.log and so on"),
        ("--restarts", 10, "new starts at most"),
        ("--pause", 1.0, "seconds before a new start; doubles each time"),
        ("--longest_pause", 60.0, "seconds up to which it doubles"),
        ("--grace", 60.0, "seconds for the others when one has left"),
        ("--kill_after", 10.0, "seconds from SIGTERM to SIGKILL"),
    ):
        parser.add_argument(
            name,
            type=type(default),
            default=default,
            help=f"{text} [{default}]",
        )
    cut = argv.index("--") if "--" in argv else len(argv)
    options, command = parser.parse_args(argv[:cut]), argv[cut + 1 :]
    if options.count < 1 or not command:
        parser.error(
            "--count from 1 and, after --, a command are needed. Received "
            f"--count={options.count} and the command {shlex.join(command)!r}."
        )
    return options, command


def commands(command, count):
    """Returns the command line of each worker, with fresh ports."""
    ports = local_worker.free_ports(count)
    workers = ",".join(f"127.0.0.1:{port}" for port in ports)
    added = [f"--workers={workers}"]
    return [[*command, *added, f"--worker_index={i}"] for i in range(count)]


def is_again(status):
    """Whether a status asks for a new start: 138 or a death by a signal."""
    return status > 128 and status != INTERRUPTED


def is_failure(status):
    """Whether a new start would end the same way."""
    return status not in (0, INTERRUPTED) and not is_again(status)


class Launcher:
    """Starts all workers, watches them, and starts them again."""

    def __init__(self, options, command):
        """Stores what does not change and takes the signals.

        Args:
          options: as of `parse`. command: list of str.
        """
        self._options, self._command = options, command
        self._workers = []
        self._asked = []  # signals that this process received
        self._handed_on = 0  # of them
        kinds = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # no nohup
            kinds.append(signal.SIGHUP)
        for kind in kinds:
            signal.signal(kind, self._note)

    def _note(self, number, frame):
        del frame
        # A closed terminal is no reason to lose what was not saved.
        self._asked.append(
            signal.SIGTERM if number == signal.SIGHUP else number
        )

    def run(self):
        """Runs rounds until one ends for good.

        Returns:
          The status of the first worker that failed; else 130 if one was
          interrupted; else the first that is not 0; else 0.

        Raises:
          OSError: for a command that cannot be started.
        """
        options = self._options
        restarts, pause = 0, options.pause
        while True:
            start = time.monotonic()
            status = self._round()
            if self._asked or not is_again(status):
                return status
            if restarts >= options.restarts:
                local_worker.say(
                    f"status {status} after {restarts} restarts: given up"
                )
                return status
            if time.monotonic() - start > _GOOD_ROUND:
                pause = options.pause
            restarts += 1
            local_worker.say(
                f"restart {restarts} of {options.restarts} in {pause:g} s"
            )
            end = time.monotonic() + pause
            while time.monotonic() < end:
                if self._asked:
                    return status
                time.sleep(_PERIOD)
            pause = min(2 * pause, options.longest_pause)

    def _round(self):
        """Starts all workers, waits until all have left, returns the status."""
        ended, term_at, kill_at = [], math.inf, math.inf
        try:
            self._start()
            while len(ended) < len(self._workers):
                time.sleep(_PERIOD)
                self._hand_on()
                for worker in self._workers:
                    if worker not in ended and worker.has_left():
                        ended.append(worker)
                        term_at = min(term_at, self._deadline(worker))
                self._workers[0].show()
                now = time.monotonic()
                if now >= kill_at:
                    self._send(signal.SIGKILL)
                elif now >= term_at and kill_at == math.inf:
                    self._send(signal.SIGTERM)
                    kill_at = now + self._options.kill_after
        finally:  # also when a worker could not be started
            self._send(signal.SIGKILL)
        return self._result([worker for worker in ended if worker.status])

    def _start(self):
        """Starts all workers, with ports of their own for this round."""
        folder = pathlib.Path(self._options.log_dir).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        self._workers = []
        lines = commands(self._command, self._options.count)
        for index, words in enumerate(lines):
            log = folder / f"worker-{index}.log"
            self._workers.append(local_worker.Worker(index, words, log))

    def _send(self, number):
        for worker in self._workers:
            worker.signal(number)

    def _hand_on(self):
        """Hands the first signal on to the workers; a second one kills them."""
        for number in self._asked[self._handed_on :]:
            self._handed_on += 1
            if self._handed_on > 1:
                number = signal.SIGKILL
            local_worker.say(f"{signal.Signals(number).name} to all workers")
            self._send(number)

    def _deadline(self, worker):
        """Until when the others may run after a worker has left."""
        grace = math.inf
        if is_failure(worker.status):
            grace = 0.0
        elif worker.status:
            grace = self._options.grace
        if worker.status:
            local_worker.say(
                f"worker {worker.index} left with status {worker.status}"
            )
        return time.monotonic() + grace

    def _result(self, bad):
        """The status of a round.

        Args:
          bad: workers that left with another status than 0, first one first.
        """
        for worker in bad:
            if is_failure(worker.status):
                local_worker.say(
                    f"worker {worker.index} failed with status "
                    f"{worker.status}. The end of {worker.log}:\n"
                    f"{worker.last_lines()}"
                )
                return worker.status
        statuses = [worker.status for worker in bad] or [0]
        return INTERRUPTED if INTERRUPTED in statuses else statuses[0]


def main(argv):
    """Runs the command line and returns the exit status."""
    options, command = parse(argv)
    # Kernels that the driver compiles at a first start are all to be kept.
    os.environ.setdefault("CUDA_CACHE_MAXSIZE", "4294967296")
    if os.environ.get("DRY_RUN") == "1":
        for words in commands(command, options.count):
            local_worker.write(1, os.fsencode(f"{shlex.join(words)}\n"))
        return 0
    try:
        return Launcher(options, command).run()
    except OSError as error:
        local_worker.say(f"the workers cannot be started: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
