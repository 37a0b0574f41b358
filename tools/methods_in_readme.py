"""Writes the README's table of methods: python tools/methods_in_readme.py."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from moco_tf.methods import table  # noqa: E402 the checkout's own

_TABLE = re.compile(r"\| method \|.*?(?=\n\n)", re.DOTALL)


def with_table(text):
    """The README's text with the table of the methods that there are."""
    if not _TABLE.search(text):
        raise ValueError("The README has no line that begins with | method |.")
    return _TABLE.sub(lambda _: table.markdown(), text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text()))
