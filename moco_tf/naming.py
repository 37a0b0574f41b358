"""Names: which one a user probably meant, and names that are no text."""

import difflib


def nearest(name, names):
    """Returns the name most like `name` (str), or None if none is like it."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return matches[0] if matches else None


def suggestion(name, names):
    """Returns a sentence for an error: the nearest name, else all names."""
    likely = nearest(name, names)
    if likely is not None:
        return f"Did you mean {likely!r}?"
    return f"Known: {', '.join(sorted(names))}."


def as_text(name):
    """Returns a name (str) that UTF-8 can hold: "?" for bytes of no text."""
    return name.encode("utf-8", "replace").decode("utf-8")
