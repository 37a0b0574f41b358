"""Finds the encoders of a file, wherever their tensors stand in it.

Files nest their dictionaries and wrap their modules in many ways. So nothing
here knows a library: a tensor's name is the path of keys that leads to it, and
wherever names of a ResNet's blocks stand behind one prefix is a candidate. Of
several, one that was trained by gradients is taken before an average of it (a
momentum encoder, a teacher, EMA), and of those a complete one.
"""

import re
from typing import Any, NamedTuple

import numpy as np

from moco_tf import paths
from moco_tf.weights import layouts, spellings
from moco_tf.weights.pickle_reader import Inert, Unreadable

# Parts that wrappers of modules put into names: torch.compile, DataParallel,
# FSDP, checkpointing of activations.
_WRAPPERS = (
    "_orig_mod",
    "module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
)
# Words in a name by which an encoder is an average of another.
_AVERAGES = frozenset(
    "ema teacher key k target momentum averaged average avg swa slow shadow"
    " polyak".split()
)
_MAX_VALUES = 300_000  # of a file that have a name, with those that it repeats
_MAX_STEPS = 10_000_000  # to look at all values
_MAX_DEPTH = 40  # containers in each other
_MAX_NAME = 400  # characters of a name, and of the keys that lead to it
_MAX_ENCODERS = 50  # complete ones
_SHOWN = 20  # candidates in a message


class Value(NamedTuple):
    """What is neither a dict nor a list, and where it stands."""

    entry: tuple[str, ...]  # keys of the containers
    key: str
    value: Any

    @property
    def parts(self):
        """The parts of its name, those of the containers first."""
        return tuple(".".join((*self.entry, self.key)).split("."))


class Candidate(NamedTuple):
    """An encoder of a file.

    Attributes:
      entry: str, keys that lead to its dictionary, with dots; "": the file's.
      prefix: str, before its names in that dictionary.
      style: of spellings.BLOCKS.
      spelled: spellings.Spelled.
      missing: number of tensors that a ResNet of its blocks would have too.
      root: str, what stands before its names, keys and prefix.
    """

    entry: str
    prefix: str
    style: str
    spelled: spellings.Spelled
    missing: int
    root: str

    def spell(self, name):
        """How the file spells the name of a tensor of the encoder."""
        names = self.spelled.names
        return self.prefix + (names.get(name) or self.spelled.spell(name))

    @property
    def is_average(self):
        """Whether its name says that it is an average of another encoder."""
        text = re.sub(r"([a-z])([A-Z])", r"\1 \2", self.root)
        words = re.findall("[a-z0-9]+", text.lower())
        words += [
            re.sub(r"\d+$", "", word) for word in words if word[1:2].isalpha()
        ]
        return bool(_AVERAGES & set(words))

    @property
    def flags(self):
        """The flags that choose it."""
        # A file may have names of any length; no message needs more of one.
        entry, prefix = self.entry[:200] or ".", self.prefix[:200] or "."
        return paths.join([f"--entry={entry}", f"--prefix={prefix}"])


def values_of(saved):
    """Lists what a file holds, with its place.

    Args:
      saved: what a reader made of the file.

    Returns:
      list of Value, in the order of the file.

    Raises:
      Unreadable: if there are too many, or they are nested too deep.
    """
    walk = _Walk()
    walk.look(saved, (), [])
    return walk.values


class _Walk:
    """Lists values by their names, in a number of steps that is limited."""

    def __init__(self):
        self.values: list[Value] = []
        self.steps = 0

    def look(self, container, entry, above):
        if len(above) >= _MAX_DEPTH:
            raise Unreadable(
                f"Its dictionaries are nested more than {_MAX_DEPTH} deep."
            )
        if type(container) is Inert:
            container = container.items
        is_dict = isinstance(container, dict)
        pairs = container.items() if is_dict else enumerate(container)
        self.steps += len(container) + 1
        if self.steps > _MAX_STEPS or len(self.values) > _MAX_VALUES:
            raise Unreadable(
                "It repeats its values: weights have fewer than "
                f"{_MAX_VALUES} and these are more."
            )
        used = sum(map(len, entry))
        for key, value in pairs:
            holds = isinstance(value, dict | list | tuple)
            # Numbers in lists are what a program logs.
            if not (is_dict or holds or isinstance(value, np.ndarray | Inert)):
                continue
            text = str(key) if type(key) in (str, int) else "?"
            if used + len(text) > _MAX_NAME:
                continue
            if not holds:
                self.values.append(Value(entry, text, value))
            if holds or (type(value) is Inert and value.items):
                if not any(value is other for other in above):
                    self.look(value, (*entry, text), [*above, value])


def find(values):
    """Finds the encoders among values.

    Args:
      values: list of Value.

    Returns:
      list of Candidate, in the order of the file.
    """
    named = [(v, v.parts) for v in values if v.key.isprintable()]
    roots: dict[tuple, set[str]] = {}  # parts before the names -> styles
    for _, parts in named:
        for start, tail in _tails(parts):
            for style, block in spellings.BLOCKS.items():
                if block.fullmatch(tail):
                    roots.setdefault(parts[:start], set()).add(style)
    members: dict[tuple, list] = {root: [] for root in roots}
    for value, parts in named:
        for start, tail in _tails(parts):
            if parts[:start] in members:
                members[parts[:start]].append((tail, value, parts))
    return [
        candidate
        for root, styles in roots.items()
        for style in spellings.BLOCKS
        if style in styles
        for candidate in _candidates(root, style, members[root])
    ]


def _tails(parts):
    """Yields (start, the name from there on without wrappers)."""
    for start in range(max(len(parts) - 12, 0), len(parts)):
        if parts[start] not in _WRAPPERS:
            tail = (part for part in parts[start:] if part not in _WRAPPERS)
            yield start, ".".join(tail)


def _candidates(root, style, members):
    """Yields the candidate of a root, if it has four stages."""
    behind = {tail: value.value for tail, value, _ in reversed(members)}
    behind = dict(reversed(behind.items()))
    stages = {
        tail.split(".")[2 if style == "hugging face" else 0]
        for tail in behind
        if spellings.BLOCKS[style].fullmatch(tail)
    }
    if len(stages) != 4:
        return
    spelled = spellings.read(style, behind)
    first = next(
        v for tail, v, _ in members if spellings.BLOCKS[style].fullmatch(tail)
    )
    # As the file has them, with the parts of wrappers in them.
    written = {tail: ".".join(parts[len(root) :]) for tail, _, parts in members}
    names = {name: written[tail] for name, tail in spelled.names.items()}
    entry = tuple(".".join(first.entry).split(".")) if first.entry else ()
    entry, prefix = root[: len(entry)], root[len(entry) :]
    yield Candidate(
        entry=".".join(entry),
        prefix="".join(f"{part}." for part in prefix),
        style=style,
        spelled=spelled._replace(names=names),
        missing=layouts.count_missing(spelled.tensors),
        root="".join(f"{part}." for part in root),
    )


def choose(candidates, entry="", prefix=""):
    """Chooses the encoder to import.

    Args:
      candidates: list of Candidate, not empty.
      entry: keys that lead to its dictionary, or the first of them; "": any.
        ".": the file itself.
      prefix: of its names, or the first parts of it; "": any. ".": none.

    Returns:
      Candidate.

    Raises:
      ValueError: if none fits, or several differ and no name says which was
        trained; the message lists the choices.
    """
    fitting = [
        candidate
        for candidate in candidates
        if _fits(candidate.entry, entry) and _fits(candidate.prefix, prefix)
    ]
    if not fitting:
        raise ValueError(
            f"No encoder stands at entry={entry!r}, prefix={prefix!r}. The "
            f"file has {len(candidates)}:\n{_choices(candidates)}"
        )
    trained = [c for c in fitting if not c.is_average] or fitting
    complete = [c for c in trained if not c.missing]
    if not complete:
        return min(trained, key=lambda c: c.missing)
    if len(complete) > _MAX_ENCODERS:
        raise ValueError(
            f"The file has {len(complete)} encoders. Choose one with the "
            f"flags:\n{_choices(complete)}"
        )
    different = [
        candidate
        for place, candidate in enumerate(complete)
        if not any(_equal(candidate, other) for other in complete[:place])
    ]
    if len(different) > 1:
        raise ValueError(
            f"The file has {len(different)} encoders that differ, and no name "
            "says which one was trained. Choose one with the flags:\n"
            f"{_choices(different)}"
        )
    return different[0]


def _fits(place, wanted):
    """Whether a place is what is wanted, or begins with its parts."""
    if not wanted:
        return True
    wanted = wanted.strip(".")
    place = place.strip(".")
    if not wanted:
        return not place
    return place == wanted or place.startswith(f"{wanted}.")


def _choices(candidates):
    lines = [
        f"  {candidate.flags}"
        + (
            f" ({candidate.missing} tensors missing)"
            if candidate.missing
            else ""
        )
        for candidate in candidates[:_SHOWN]
    ]
    if len(candidates) > _SHOWN:
        lines.append(f"  and {len(candidates) - _SHOWN} more")
    return "\n".join(lines)


def _equal(one, two):
    """Whether two candidates have the same tensors in their backbones."""
    ours, theirs = (
        {n: v for n, v in c.spelled.tensors.items() if not n.startswith("fc.")}
        for c in (one, two)
    )
    return set(ours) == set(theirs) and all(
        type(value) is np.ndarray
        and type(theirs[name]) is np.ndarray
        and value.dtype == theirs[name].dtype
        and np.array_equal(value, theirs[name])
        for name, value in ours.items()
    )
