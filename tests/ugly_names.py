"""Names of files and folders that a file system allows and programs forget."""

import os
import string

import pytest
from hypothesis import strategies as st

NAMES = (
    "a[b]c", "a[!b]-[", "]", "back\\slash", "ends\\", "st*r", "wh?t",
    " blanks at both ends ", "it's", 'a "quote"', "two\nlines\n", "tab\tcr\r",
    "日本é", "-dash", "--config.seed=1", "%s%d%(name)s%", "#hash", "{}{0}{x}",
    "$HOME", "$(touch x)`x`", "~", "~nobody", "a,b", "a@b", "s3:", "a:b", ";&|",
    "<img src=x onerror=alert(1)>", "\x01\x1b[31m", "...", ".hidden", "latest",
    "1", "a.py", "a.npz", "\udcff\udcfe", "é\udce9",
)  # fmt: skip
# All of it at once.
WORST = "w[1]*?\\ '\"\n\t$x`%s{}#&<i>|;~,@é中\udcff"
# Every byte but those that no name can hold; half of them are rare in names.
_LETTERS = st.one_of(
    st.sampled_from("[]\\*?!{}$%#'\"\n ~-,@:" + string.ascii_letters),
    st.integers(1, 255).map(lambda n: os.fsdecode(bytes([n]))),
)
RANDOM = st.text(_LETTERS, min_size=1, max_size=20).filter(
    lambda name: "/" not in name and name not in (".", "..")
)


def make(folder, name):
    """Makes a folder of a name; skips where the file system refuses it."""
    path = folder / name
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"{name!a}: {error.strerror}")
    return path
