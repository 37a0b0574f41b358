"""What Slurm's variables say: lists of hosts and of tasks, and ports."""

import re

# Slurm gives no ports: sixteen a job, below those that systems hand out.
_PORTS = range(12000, 32000)
_TASKS = 16


def first_port(job):
    """The first port of a job's number; jobs that share a node get others."""
    slots = len(_PORTS) // _TASKS
    return _PORTS.start + job % slots * _TASKS


def tasks(text):
    """ "2(x3),1" -> [2, 2, 2, 1]."""
    counts = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if not match:
            raise ValueError(f"not a list of tasks: {text!r}")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def expand_hosts(text):
    """Expands a Slurm host list in its own order.

    Args:
      text: str, as "gpu[08-10,3],login,r[1-2]n[1-2]".

    Returns:
      list of str.

    Raises:
      ValueError: for text that is no host list.
    """
    hosts = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text):
        names = [""]
        for plain, ranges in re.findall(r"([^\[\]]+)|\[([^\[\]]*)\]", part):
            options = _numbers(ranges) if ranges else [plain]
            names = [name + option for name in names for option in options]
        hosts += names
    if not hosts or text.count("[") != text.count("]"):
        raise ValueError(f"not a list of hosts: {text!r}")
    return hosts


def _numbers(text):
    """ "08-10,3" -> ["08", "09", "10", "3"]."""
    numbers = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match:
            raise ValueError(f"not a range of hosts: {text!r}")
        width, last = len(match[1]), int(match[2] or match[1])
        numbers += [f"{n:0{width}}" for n in range(int(match[1]), last + 1)]
    return numbers
