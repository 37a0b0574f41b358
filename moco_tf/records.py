"""The records of a workdir, config.json and environment.json, read again."""

import os
import pathlib

from moco_tf import paths, state_files

PRESET = "preset.py"  # of a configuration that was chosen (doctor/auto.py)


def is_run(folder):
    """Whether the config.json of a folder, if it has one, is of a run.

    Other libraries name so a file of their own, beside weights. One that
    cannot be read counts as a run's.
    """
    folder = pathlib.Path(folder)
    if not os.path.lexists(folder / "config.json"):
        return False
    try:
        saved = state_files.read_object(folder / "config.json")
    except ValueError:
        return True
    return "config" in saved or os.path.lexists(folder / "environment.json")


def read_saved(workdir):
    """Reads config.json: a dict with the configuration and what goes with it.

    Raises:
      state_files.Damaged: if it cannot be read, or is of no run.
    """
    path = pathlib.Path(workdir) / "config.json"
    saved = state_files.read_json(path, way_back(workdir))
    if not isinstance(saved.get("config"), dict):
        words = "is not the config.json of a run: it has no configuration"
        remedy = way_back(workdir)
        if not is_run(workdir):
            remedy = (
                "Another program wrote it. Give the workdir of a run of "
                "pretrain, or to read weights a file of that folder."
            )
        raise state_files.Damaged(path, words, remedy)
    return saved


def was_chosen(workdir):
    """Whether the run in a workdir, if there is one, began with auto."""
    if not os.path.lexists(os.path.join(workdir, "config.json")):
        return False
    return bool(read_saved(workdir).get("chosen", False))


def keep_preset(workdir, text):
    """Writes preset.py, of text that is not ""; whether the run was chosen."""
    if text:
        state_files.write_text(pathlib.Path(workdir) / PRESET, text)
    return bool(text) or was_chosen(workdir)


def read_starts(workdir):
    """The starts that environment.json lists, dicts; [] without the file.

    Raises:
      state_files.Damaged: if it cannot be read.
    """
    path = pathlib.Path(workdir) / "environment.json"
    if not os.path.lexists(path):
        return []
    starts = state_files.read_json(path).get("starts")
    if isinstance(starts, list) and all(isinstance(x, dict) for x in starts):
        return starts
    raise state_files.Damaged(path, "lists no starts")


def known_starts(workdir):
    """As `read_starts`; [] where the file cannot be read."""
    try:
        return read_starts(workdir)
    except ValueError:
        return []


def way_back(workdir):
    """How to get a config.json again, in sentences."""
    try:
        command = paths.join(known_starts(workdir)[-1]["command"][1:])
        command = f"its command ({command})"
    except (LookupError, TypeError):
        command = "its command"
    return (
        "Nothing else is lost. Put a copy of it back; or give "
        f"{command} with a new --workdir (a task: --output), stop it at its "
        f"first step, and copy the config.json of that folder to {workdir}."
    )
