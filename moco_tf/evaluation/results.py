"""The folder of a task with labels, and its result.json, read again."""

import os

from moco_tf import state_files, workdirs

_ACCURACY = ("top1", "top1_low", "top1_high", "images")  # of accuracy.summary


def open_result(config, output, labelled, command, encoder, fields, files=()):
    """Reads the result of a task, if it is finished.

    Args:
      config: ConfigDict of the task. output: pathlib.Path of its folder, held.
      labelled: LabelledSources. command: name of the command.
      encoder: identity of the encoder that is evaluated.
      fields: names that result.json of the command has beside top1.
      files: names of files that a finished task has beside result.json.

    Returns:
      dict, as in result.json, None for a task that is not finished, or that has
      lost one of these files and is measured again; and a function that notes
      this start in the folder: to be called when it is certain that the task
      goes on.

    Raises:
      ValueError: if the task was started with other sources, another encoder or
        another configuration.
    """
    fingerprint = "".join(part.fingerprint for part in labelled.data)
    names = ("train_images", "test_images")
    listings = [
        (name, part.images)
        for name, part in zip(names, labelled.data, strict=True)
    ]

    def begin():
        workdirs.save(config, output, fingerprint, command, encoder, listings)
        for name, part in zip(("train", "test"), labelled.data, strict=True):
            if words := part.describe(f"data.{name}"):
                print(words)

    workdirs.check(
        config, output, fingerprint, command=command, encoder=encoder
    )
    return _read_result(output / "result.json", fields, files), begin


def _read_result(path, fields, files):
    """The result of a finished task, or None.

    Side effects: a damaged result.json is set aside.
    """
    if not os.path.lexists(path):
        return None
    try:
        result = state_files.read_json(path)
        wanted = (*_ACCURACY, *fields)
        lacking = [name for name in wanted if name not in result]
        if lacking:
            raise state_files.Damaged(path, f"lacks {', '.join(lacking)}")
    except state_files.Damaged as error:
        other = state_files.set_aside(path)
        state_files.warn(f"{error} It is kept as {other}; the task goes on")
        return None
    for name in files:
        if damage := state_files.zip_damage(path.with_name(name)):
            state_files.warn(
                f"{path.with_name(name)} {damage}: the task is measured again"
            )
            return None
    return result
