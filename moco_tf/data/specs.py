"""Specs of sources as text: where they point, and where that lies now.

Needs no TensorFlow: what a workdir records is read without it.
"""

import os

# Kinds whose rest is one path, or several with commas between.
_ONE_PATH = ("folder", "list", "prepared")
_PATHS = (*_ONE_PATH, "pairs")


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
        lambda path: _absolute(os.path.join(folder, os.path.expanduser(path))),
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
    if (paths := _paths(typed)) and all(map(os.path.isabs, paths)):
        noted = typed  # also where somebody has corrected config.json

    def moved_along(path):
        return os.path.normpath(
            os.path.join(now, os.path.relpath(_absolute(path), then))
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


def _with_paths(spec, change):
    """A spec with its paths changed by a function of str."""
    kind, _, rest = spec.partition(":")
    if kind in _PATHS and rest:
        paths = [rest] if kind in _ONE_PATH else rest.split(",")
        return f"{kind}:{','.join(map(change, paths))}"
    if kind != "tfds":
        return spec
    folder, _, split = rest.rpartition("/")
    if _is_data_set(folder):
        return f"tfds:{change(folder)}/{split}"
    name, at, folder = rest.partition("@")
    folder = folder if at else os.environ.get("TFDS_DATA_DIR", "")
    return f"tfds:{name}@{change(folder)}" if folder else spec


def _paths(spec):
    """The paths of a spec, without ~."""
    paths: list[str] = []

    def note(path):
        paths.append(os.path.expanduser(path))
        return path

    _with_paths(spec, note)
    return paths


def _is_data_set(folder):
    """Whether a folder is a prepared data set of TFDS, or is a path to one."""
    folder = os.path.expanduser(folder)
    about = os.path.join(folder, "dataset_info.json")
    return os.path.isabs(folder) or os.path.isfile(about)


def _absolute(path):
    return os.path.abspath(os.path.expanduser(path))
