"""Names that a user types: which one was probably meant."""

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
