"""What messages advise is done here, message by message, and works.

A module of this folder has the rows of a part of the package. A new message
needs a row: test_complete.py names those that have none.
"""

import pytest

from tests.remedies import following
from tests.remedies.parts import PARTS


@pytest.mark.parametrize(
    ("key", "function"),
    [row for part in PARTS for row in part.ROWS.parameters()],
)
def test_what_is_advised_works(key, function, tmp_path, monkeypatch, capsys):
    fixtures = {
        "tmp_path": tmp_path,
        "monkeypatch": monkeypatch,
        "capsys": capsys,
    }
    following.follow(key, function, fixtures)
