"""Rows: a message of the package, and what shows that its remedy works.

A row of `followed` is a generator of actions. The first is refused, by the
statement that the row names or with its text; each later one does what the
remedy says, and is not. What it is sent is the text that was shown:

    @ROWS.followed("methods/moco.py:MoCo.check", "Raise config.moco.queue")
    def queue():
        text = yield lambda: check(queue_size=4, batch_size=8)
        yield lambda: check(queue_size=8, batch_size=8)

A row of `states` is of messages that advise nothing, with the reason; one of
`tested` names a test that stands elsewhere and does the same as a row here.
"""

import ast
import collections
import fnmatch
import inspect
import re

import pytest

from tests.remedies import messages

# Why a message may name no remedy.
SAYS_WHAT_IS_TAKEN = "the rule itself lists the values, or gives their bounds"
PART_OF_ANOTHER = "stands in, or beside, a message that has the remedy"
NO_MESSAGE = "is help, or a caption: nothing is wrong"
OF_A_CALLER = "only code that breaks the contract of a function meets it"
NO_REMEDY = "nothing is known that would help"
REASONS = (
    *(SAYS_WHAT_IS_TAKEN, PART_OF_ANOTHER, OF_A_CALLER, NO_REMEDY),
    NO_MESSAGE,
)


class Rows:
    """The rows of a part of the package."""

    def __init__(self, *patterns):
        """Names the files, with wildcards, below moco_tf/."""
        self.patterns = patterns
        self._functions = {}
        self._reasons = {}
        self._tests = {}
        self._within = {}
        self._rest = {}

    def covers(self, file):
        """Whether the rows are of this file."""
        return any(fnmatch.fnmatch(file, name) for name in self.patterns)

    def followed(self, place, words):
        """Adds the decorated generator as the row of a message.

        Args:
          place: "file:function". words: of the text, as it stands in the
            sources; enough to tell it from others of the function.
        """

        def add(function):
            assert inspect.isgeneratorfunction(function), (place, words)
            assert (place, words) not in self._functions, (place, words)
            self._functions[place, words] = function
            return function

        return add

    def states(self, reason, *keys):
        """Adds messages without a remedy: pairs of place and words."""
        assert reason in REASONS
        self._reasons |= dict.fromkeys(keys, reason)

    def states_rest(self, reason, *patterns):
        """Adds all messages without a remedy of files that no row names."""
        assert reason in REASONS
        self._rest |= dict.fromkeys(patterns, reason)

    def within(self, key, *parts):
        """Adds texts that stand in the message of a row, which follows them.

        Args:
          key: place and words of the row. parts: keys of the texts.
        """
        self._within |= dict.fromkeys(parts, key)

    def tested(self, test, *keys):
        """Adds messages whose remedies a test elsewhere follows.

        Args:
          test: "tests/file.py::name". keys: pairs of place and words.
        """
        self._tests |= dict.fromkeys(keys, test)

    def parameters(self):
        """The rows to follow, for pytest's parametrize."""
        return [
            pytest.param(key, function, id=f"{key[0]}-{key[1]}"[:90])
            for key, function in self._functions.items()
        ]

    def faults(self):
        """What is missing or too much in these rows, a list of lines."""
        keys = [
            *(*self._functions, *self._reasons),
            *(*self._tests, *self._within),
        ]
        faults = [
            f"twice in the rows: {key}"
            for key, count in collections.Counter(keys).items()
            if count > 1
        ]
        named = collections.Counter()
        for key in keys:
            messages_of_key = matches(key)
            # The same words may stand twice in the parts of one message.
            if len(messages_of_key) != 1 and not (
                messages_of_key and key in self._within
            ):
                faults.append(f"names {len(messages_of_key)} messages: {key}")
            for message in messages_of_key:
                named[message] += 1
                reason = self._reasons.get(key, NO_MESSAGE)
                if reason != NO_MESSAGE and message.remedy:
                    faults.append(f"has a remedy: {key}: {message.remedy}")
        faults += [f"two rows of {m.place}: {m.text}" for m in named
                   if named[m] > 1]  # fmt: skip
        faults += [
            f"no row of {m.place} (line {m.first}): {m.remedy or m.text}"
            for m in messages.collect()
            if self.covers(m.file) and not named[m]
            if m.remedy
            or not any(fnmatch.fnmatch(m.file, p) for p in self._rest)
        ]
        faults += [
            f"{key} is no row, but has a part"
            for key in self._within.values()
            if key not in self._functions and key not in self._tests
        ]
        return faults + [
            f"{test} {why}"
            for key, test in self._tests.items()
            if (why := _lacks(test, key))
        ]


def follow(key, function, fixtures):
    """Runs a row.

    Args:
      key: place and words. function: the generator.
      fixtures: dict of those that it may take, by name.
    """
    message = _one(key)
    wanted = inspect.signature(function).parameters
    actions = function(**{name: fixtures[name] for name in wanted})
    text = _outcome(message, next(actions), shown=True)
    count = 0
    try:
        while True:
            action = actions.send(text if not count else None)
            _outcome(message, action, shown=False)
            count += 1
    except StopIteration:
        pass
    assert count, f"{key}: no remedy was followed"


def matches(key):
    """The messages of a place that have the words, a list."""
    place, words = key
    return [
        message
        for message in messages.collect()
        if message.place == place and words in message.text
    ]


def advised(text):
    """The overrides that a message names: dicts field -> text.

    Those of a sentence with "or" between them are several dicts.
    """
    pieces = re.findall(r"(\bor\b|;)|--config\.([\w.]+)=(\S*)", text)
    choices = [{}]
    for alternative, name, value in pieces:
        if alternative:
            choices.append({})
        else:
            choices[-1][name] = value.rstrip(".,;)")
    return [choice for choice in choices if choice]


def suggested(text):
    """The name that a message ends with a question about."""
    return re.findall(r"Did you mean '([^']*)'\?", text)[-1]


def _one(key):
    messages_of_key = matches(key)
    assert len(messages_of_key) == 1, (
        f"{key} names {len(messages_of_key)} messages"
    )
    return messages_of_key[0]


def _outcome(message, action, shown):
    """The text of an action that shows the message, or does not."""
    try:
        text = str(action())
    except Exception as error:  # of any type: the place is looked at
        assert shown, f"the remedy was refused: {error!r}"
        text = str(error)
        if message.raised and _raised_by(message, error):
            return text
    else:
        assert not (shown and message.raised), "nothing was raised"
    parts = [part.strip() for part in message.fixed]
    if shown:
        absent = [part for part in parts if part not in text]
        assert not absent, f"{absent} are not in {text!r}"
    elif not message.raised:
        assert not all(part in text for part in parts), text
    return text


def _raised_by(message, error):
    """Whether the statement of a message has raised an error, or its cause."""
    path = str(messages.sources()[message.file])
    while error is not None:
        step = error.__traceback__
        while step is not None:
            name = step.tb_frame.f_code.co_filename
            if name == path and message.first <= step.tb_lineno <= message.last:
                return True
            step = step.tb_next
        error = error.__cause__ or error.__context__
    return False


def _lacks(test, key):
    """Why a test cannot be of a message; "" if it can."""
    path, _, name = test.partition("::")
    path = messages.ROOT / path
    if not path.exists():
        return "is not there"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            break
    else:
        return "is not there"
    texts = node.name.replace("_", " ") + " ".join(
        part.value
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )
    words = set(re.findall(r"\w{4,}", texts.lower()))
    shared = words & set(re.findall(r"\w{4,}", _one(key).text.lower()))
    return "" if len(shared) >= 2 else f"says nothing of {key}"
