"""Writes the table of requests of docs/serving.md.

python tools/serving_requests.py
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.serving import request_cases  # noqa: E402 the checkout's own

_TABLE = re.compile(r"\| request \| status \|.*?(?=\n\n)", re.DOTALL)


def with_table(text):
    """The page's text with the table of the cases that there are."""
    if not _TABLE.search(text):
        raise ValueError("The page has no line that begins with | request |.")
    return _TABLE.sub(lambda _: request_cases.markdown(), text)


if __name__ == "__main__":
    page = ROOT / "docs" / "serving.md"
    page.write_text(with_table(page.read_text()))
