"""Specs of sources as text: where they point, and where that lies now.

Needs no TensorFlow: what a workdir records is read without it.
"""

import contextlib
import os

from moco_tf import paths

_OF_PATHS = ("folder", "list", "prepared", "pairs")  # what follows is a path


def absolute(spec: str, folder: str = "") -> str:
    """A spec as it can be opened from another folder and another shell.

    Args:
      spec: as of `sources.open_source`.
      folder: that relative paths start from; "": the current one.

    Returns:
      str; a name of TFDS is joined by the folder of $TFDS_DATA_DIR, if that is
      set.
    """
    return _with_paths(
        spec,
        lambda path: paths.absolute(os.path.join(folder, _home(path))),
        folder,
    )


def exists(spec: str) -> bool:
    """Whether the paths of a spec exist; True of one without paths."""
    return all(map(os.path.exists, _paths(spec)))


def find(typed: str, noted: str, workdirs: tuple[str, str]) -> str:
    """Where the source of a run lies now.

    Args:
      typed: the spec as it was given. noted: its absolute form, as of then.
      workdirs: the run's folder as of then and as of now, absolute: data that
        moved along with it are beside it.

    Returns:
      the first of these that exists: `noted`; the same place as seen from the
      run's folder; `typed`, from the current folder. None of them: `noted`.
    """
    then, now = workdirs
    if (given := _paths(typed)) and all(map(os.path.isabs, given)):
        noted = typed  # also where somebody has corrected config.json

    def moved_along(path):
        return os.path.normpath(
            os.path.join(now, os.path.relpath(paths.absolute(path), then))
        )

    beside = _with_paths(noted, moved_along) if then else noted
    choices = (spec for spec in (noted, beside, typed) if exists(spec))
    return next(choices, noted)


def check_there(spec: str, field: str, remedy: str) -> None:
    """Refuses a spec that a run noted, if its paths are gone.

    Args:
      spec: absolute. field: that it was given in.
      remedy: sentence that says how to name the data anew.

    Raises:
      ValueError: for such a spec.
    """
    if not exists(spec):
        raise ValueError(
            f"The data of a run must still be there. Its {field} was {spec!r}, "
            f"which does not exist here. Mount or link it there, or {remedy}"
        )


def split_pair(text: str, folder: str = "") -> tuple[str, str]:
    """Splits "DIR,DIR"; the folders' own names may hold commas.

    Args:
      text: str, of the source pairs:DIR,DIR.
      folder: that relative paths start from; "": the current one.

    Returns:
      (str, str). Of several commas the one counts that has folders on both
      sides.

    Raises:
      ValueError: without a comma, or where that leaves none or several.
    """
    parts = text.split(",")
    ways = [
        (",".join(parts[:count]), ",".join(parts[count:]))
        for count in range(1, len(parts))
    ]
    if len(ways) > 1:
        ways = [
            way
            for way in ways
            if all(os.path.isdir(os.path.join(folder, _home(x))) for x in way)
        ]
    if len(ways) != 1 or not all(ways[0]):
        raise ValueError(
            "The source pairs:DIR,DIR must name two folders with a comma "
            f"between. Received {text!r}."
        )
    return ways[0]


def _with_paths(spec, change, folder=""):
    """A spec with its paths, below a folder, changed by a function of str."""
    kind, _, rest = spec.partition(":")
    if kind in _OF_PATHS and rest:
        places = [rest]
        if kind == "pairs":
            places = rest.split(",")
            with contextlib.suppress(ValueError):  # they are not there
                places = list(split_pair(rest, folder))
        return f"{kind}:{','.join(map(change, places))}"
    if kind != "tfds":
        return spec
    data_set, _, split = rest.rpartition("/")
    if _is_data_set(_home(data_set), folder):
        return f"tfds:{change(data_set)}/{split}"
    name, at, data_dir = rest.partition("@")
    data_dir = data_dir if at else os.environ.get("TFDS_DATA_DIR", "")
    return f"tfds:{name}@{change(data_dir)}" if data_dir else spec


def _paths(spec):
    """The paths of a spec, without ~."""
    places: list[str] = []

    def note(path):
        places.append(_home(path))
        return path

    _with_paths(spec, note)
    return places


def _is_data_set(path, folder):
    """Whether a path, seen from a folder, is a prepared data set of TFDS."""
    about = os.path.join(folder, path, "dataset_info.json")
    return os.path.isabs(path) or os.path.isfile(about)


def _home(path):
    """A path with the home in the place of ~."""
    return os.path.expanduser(path)
