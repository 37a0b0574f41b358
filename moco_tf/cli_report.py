"""The command that shows runs to people: flags to one function call."""

from moco_tf import command_line, quiet


def _report(options, config):
    del config
    images = command_line.number(int, "images", options.images)
    with quiet.imports(options.verbose):
        from moco_tf.reporting import pages
        from moco_tf.training import distribution
    distribution.make_strategy(options.devices)
    quiet.start_xla(options.verbose)
    pages.write(options.workdir, options.path, options.checkpoint, images)


COMMANDS = {
    "report": command_line.Command(
        run=_report,
        purpose="write one HTML file that shows a run, or compares several",
        flags=("workdir", "path", "checkpoint", "images", "devices"),
        required=("workdir",),
        defaults={
            "workdir": ((), "folder of a run; give it again to compare runs"),
            "path": ("", "file to write; none = report.html in the workdir"),
            "images": ("2000", "of the test set, on its map; 0 = curves alone"),
        },
    ),
}
