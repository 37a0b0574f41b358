"""Paths of any name: for TensorFlow's functions, for people, for a shell.

A file system allows every byte but "/" and zero in a name. TensorFlow's readers
take some names as patterns and refuse bytes that are no UTF-8, so whatever
gives a path to TensorFlow, Keras or a converter gives it that of `plain`. What
is printed for people is `shown`; a word of a command that is printed, `quote`.
"""

import contextlib
import os
import pathlib
import re
import shlex
import tempfile

# Checkpoint.read, checkpoint readers and SavedModel's loader take the first
# five as parts of a pattern, though the writers do not. The two points in a
# part are cut out of a path before it is used, so that a link in front of them
# is not followed; "://" begins another file system. Of control characters it is
# not known what every converter does with them.
_NOT_PLAIN = re.compile(r"[*?\[\]\\\x00-\x1f\x7f]|(^|/)\.\.(/|$)|://")
_LINK = re.compile(r"\S*/moco_tf-\w{8}/link/?")  # see `plain`
_SUFFIX = re.compile(r"\.\w{1,16}", re.ASCII)
_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")
_LETTERS = {"\n": r"\n", "\t": r"\t", "\r": r"\r", "\\": r"\\", "'": r"\'"}


def expand(path: str | os.PathLike) -> pathlib.Path:
    """Returns a pathlib.Path with "~" or "~user" at its start as the home."""
    return pathlib.Path(os.path.expanduser(path))


def absolute(path):
    """Returns a path (str) that means the same from every folder.

    ".." behind a link is what the system takes it for: the folder above the
    one that the link leads to.

    Args:
      path: str or pathlib.Path; "~" at its start is the home.
    """
    path = os.path.expanduser(path)
    if ".." in os.fspath(path).split("/"):
        return os.path.realpath(path)
    return os.path.abspath(path)


@contextlib.contextmanager
def plain(path):
    """Names a file or folder so that TensorFlow's functions find it.

    Args:
      path: of any name; it need not exist, its folder must.

    Yields:
      str: the path itself, or of a link to it with a plain name, for the time
      of the block; the ending stays. Of a folder, names below it may be joined.

    Raises:
      OSError: if a link is needed and cannot be made.

    Side effects: the link is in a temporary folder, which goes with the block.
    """
    path = os.fspath(path)
    if _is_plain(path):
        yield path
        return
    folder = tempfile.mkdtemp(prefix="moco_tf-", dir=_temporary_folder())
    suffix = os.path.splitext(path)[1]
    link = os.path.join(
        folder, "link" + (suffix if _SUFFIX.fullmatch(suffix) else "")
    )
    try:
        os.symlink(os.path.join(os.getcwd(), path), link)
        yield link
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(link)
        os.rmdir(folder)


def without_link(text):
    """Returns an error's text (str) without the names that `plain` made up."""
    return _LINK.sub("", text)


def _is_plain(path):
    if _NOT_PLAIN.search(path):
        return False
    try:
        # TensorFlow writes text as UTF-8, Python as the locale has it.
        return path.encode() == os.fsencode(path)
    except UnicodeEncodeError:
        return False


def _temporary_folder():
    """A folder for links, whose own name is plain."""
    folders = (tempfile.gettempdir(), *_TEMPORARY)
    for folder in folders:
        if _is_plain(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise OSError(
        "A path with brackets, a backslash or bytes that are no text needs a "
        "temporary folder with a plain name. Received "
        f"{', '.join(map(ascii, folders))}, none of them plain and writable. "
        "Set TMPDIR to one."
    )


def quote(word):
    r"""Returns a word of a shell's command that means `word` exactly.

    Args:
      word: str or path. What cannot be printed becomes an escape, as in
        $'a\nb', which bash, zsh and ksh read.
    """
    text = os.fspath(word)
    if text.isprintable():
        return shlex.quote(text)
    letters = [_LETTERS.get(letter) or _escaped(letter) for letter in text]
    return f"$'{''.join(letters)}'"


def _escaped(letter):
    if letter.isprintable():
        return letter
    return "".join(f"\\{octet:03o}" for octet in os.fsencode(letter))


def join(words):
    """Returns words (str or paths) as one command for a shell."""
    return " ".join(map(quote, words))


def shown(path):
    """Returns a path (or a source) as people read it, in one line of text.

    It is the path itself, or, where a letter of it cannot be printed, what
    `quote` makes of it.
    """
    text = os.fspath(path)
    return text if text.isprintable() else quote(text)
