"""Which tests are quick or of the platform, and which files are begun first.

A file is quick unless SLOW names it. Files are handed to the processes in the
order of SLOW, so that none of the long ones is begun last.
"""

import collections
import pathlib

import pytest

import moco_tf  # noqa: F401 - chooses Keras 2, before TensorFlow is loaded

# Not resolved: a test has the path that pytest was given, maybe through links.
TESTS = pathlib.Path(__file__).absolute().parent
# Files that start processes with TensorFlow in them, make whole runs or trace
# many networks, the longest first as far as that is known. The seconds of files
# are listed by `launch/test.sh --durations=25`: more than ten belong here.
SLOW = """
test_pretrain.py
test_ugly_paths.py
test_going_on.py
test_pages.py
cluster/test_faults.py
methods/test_every_method.py
cluster/test_leaving.py
test_reference_replicas.py
test_tutorial.py
test_from_python.py
evaluation/test_finetune.py
cluster/test_sameness.py
data/test_augmentation.py
test_reference_cases.py
serving/test_convert.py
serving/test_export.py
cluster/test_collectives.py
cluster/test_doctor.py
methods/test_shuffle.py
weights/test_torch_itself.py
evaluation/test_linear.py
evaluation/test_resumed_tasks.py
models/test_keras_cv_backbones.py
methods/test_moco.py
methods/test_micro_batches.py
test_benchmark.py
test_between_lanes.py
cli/test_serving.py
models/test_resnet.py
models/test_encoder.py
models/test_inputs.py
models/test_replicas.py
models/test_synchronized.py
weights/test_importing.py
weights/test_exporting.py
weights/test_reference_weights.py
serving/test_serve_local.py
serving/test_requests.py
serving/test_signatures.py
serving/test_warm_up.py
serving/test_keras_file.py
serving/test_hub_folder.py
training/test_checkpoints.py
training/test_distribution.py
training/test_overlap.py
training/test_steps.py
training/test_optimizers_addons.py
doctor/test_devices.py
doctor/test_report.py
test_examples.py
evaluation/test_monitor.py
methods/test_swav.py
methods/test_memory_bank.py
methods/test_dino.py
methods/test_byol.py
methods/test_simclr.py
methods/test_end_to_end.py
methods/test_cmc.py
methods/test_cpc.py
cli/test_evaluation.py
test_readme_example.py
test_prepare.py
test_pairs_of_files.py
test_launch.py
launch_scripts/test_local_workers.py
launch_scripts/test_slurm.py
reporting/test_browser.py
reporting/test_page.py
reporting/test_samples_encoded.py
evaluation/test_strays.py
data/test_tfds_records.py
test_damaged_state.py
test_twin_continues.py
data/test_stream.py
data/test_views.py
test_bazel_offline.py
evaluation/test_label_augment.py
evaluation/test_knn.py
cluster/test_watchdog.py
cluster/test_rendezvous.py
models/test_recompute.py
test_placement.py
doctor/test_scan.py
remedies/test_remedies.py
""".split()

# What touches TensorFlow and Keras beyond common operations, and how both are
# installed: to be run in both lanes after a change that concerns them.
PLATFORM = """
cli/
cluster/
methods/
models/
serving/
training/
data/test_stream.py
data/test_tfds_records.py
data/test_views.py
evaluation/test_embeddings.py
evaluation/test_frozen.py
evaluation/test_linear.py
monitoring/test_tensorboard.py
test_between_lanes.py
test_examples.py
test_lane.py
test_launch.py
test_packaging.py
test_pretrain.py
test_public.py
test_readme_example.py
test_reference_cases.py
test_reference_replicas.py
test_workdirs.py
weights/test_importing.py
""".split()

# What CI has time for in both lanes, of each kind something.
BOTH_LANES = """
methods/test_moco.py
models/test_keras_files.py
serving/test_signatures.py
test_between_lanes.py
test_lane.py
test_public.py
test_readme_example.py
test_reference_cases.py
training/test_checkpoints.py
training/test_optimizers_addons.py
""".split()
# Long proofs that take turns in CI, by the day of the year modulo 3. FILE[ID]
# is the part of a file with that parameter. Without --turn, all are run.
TURNS = {
    "0": """
cluster/test_doctor.py
methods/test_every_method.py
methods/test_micro_batches.py
remedies/test_remedies.py
test_bazel_offline.py
test_damaged_state.py
test_pages.py
""".split(),
    "1": """
cluster/test_faults.py
doctor/test_auto.py
evaluation/test_label_augment.py
test_benchmark.py
test_comparing.py
test_reference_replicas.py
test_tutorial.py[photographs]
""".split(),
    "2": """
data/test_views.py
launch_scripts/test_slurm.py
models/test_keras_cv_backbones.py
serving/test_convert.py
test_branching.py
test_from_python.py
test_going_on.py
test_tutorial.py[small]
test_ugly_paths.py
""".split(),
}


def pytest_addoption(parser):
    parser.addoption(
        "--turn",
        choices=("all", *TURNS),
        default="all",
        help="of the long proofs that take turns in CI run these alone",
    )


def name_of(item):
    """The path of a test's file, below tests/."""
    return item.path.relative_to(TESTS).as_posix()


def names_of(item):
    """The names of a test in TURNS, set of str: its file and parts of it."""
    name = name_of(item)
    _, bracket, parameters = item.name.partition("[")
    parts = parameters.removesuffix("]").split("-") if bracket else ()
    return {name, *(f"{name}[{part}]" for part in parts)}


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config, items):
    place = {name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(name_of(item), len(place)))
    for item in items:
        if name_of(item) not in place:
            item.add_marker("quick")
        if name_of(item).startswith(tuple(PLATFORM)):
            item.add_marker("platform")
        if name_of(item) in BOTH_LANES:
            item.add_marker("both_lanes")
    turn = config.getoption("turn")
    if turn != "all":
        wait = {
            n for other, names in TURNS.items() if other != turn for n in names
        }
        later = [item for item in items if names_of(item) & wait]
        items[:] = [item for item in items if not names_of(item) & wait]
        config.hook.pytest_deselected(items=later)


def pytest_terminal_summary(terminalreporter, config):
    """With --durations=N, the N files that took longest."""
    count = config.getoption("durations")
    if not count:
        return
    seconds = collections.Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    terminalreporter.section(f"slowest {count} files")
    for name, taken in seconds.most_common(count):
        terminalreporter.write_line(f"{taken:8.2f}s {name}")
