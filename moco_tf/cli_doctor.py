"""The command that examines data, devices and a configuration beforehand."""

from moco_tf import command_line, quiet
from moco_tf import config as configs

_PROVE = ("auto", "always", "never")


def _doctor(options, config):
    steps = command_line.number(int, "trial_steps", options.trial_steps)
    if steps < 0:
        raise command_line.UsageError(
            f"--trial_steps takes 0 or more. Received {steps}."
        )
    if options.prove not in _PROVE:
        raise command_line.UsageError(
            f"--prove must be one of {', '.join(_PROVE)}. Received "
            f"{options.prove!r}."
        )
    with quiet.imports(options.verbose):
        import tensorflow as tf

        from moco_tf.doctor import examination, table
        from moco_tf.training import distribution
    strategy = distribution.make_strategy(options.devices)
    prove = options.prove == "always"
    if options.prove == "auto":
        prove = bool(tf.config.list_logical_devices("GPU"))
    written = configs.load(options.config)  # as the file has it
    order = examination.Order(
        config,
        options.workdir or "",
        options.path,
        options.json,
        steps,
        prove,
        written.optimizer.learning_rate / written.train.batch_size,
    )
    failed = table.failures(examination.examine(order, strategy))
    if failed:
        raise ValueError(
            f"{len(failed)} check(s) failed: {', '.join(failed)}. The table "
            "says what to do."
        )


COMMANDS = {
    "doctor": command_line.Command(
        run=_doctor,
        purpose="examine images, devices and a configuration before a run",
        flags=(
            "config",
            "workdir",
            "devices",
            "path",
            "json",
            "trial_steps",
            "prove",
        ),
        required=("config",),
        defaults={
            "workdir": ("", "folder of the planned run; for disk and CSV"),
            "path": ("", "CSV of images at fault; none = in the workdir"),
            "json": ("", "file to write: the table, for scripts"),
            "trial_steps": ("20", "steps to time; 0 = none"),
            "prove": (
                "auto",
                "check the devices by steps of the reference, a gather and a "
                "resume: auto (on GPUs), always or never",
            ),
        },
    ),
}
