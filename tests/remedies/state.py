"""Rows of what a run has left: checkpoints, figures, and reports of them."""

import json
import shutil
import types

import numpy as np
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import state_files, workdirs
from moco_tf.cli import flags, main
from moco_tf.monitoring import metrics_csv
from moco_tf.reporting import findings, page, pictures, samples
from moco_tf.training import checkpoints
from tests.evaluation import plain_frozen
from tests.remedies import following
from tests.reporting import small_report

ROWS = following.Rows(
    *("monitoring/metrics_csv.py", "reporting/*.py", "state_files.py"),
    "training/checkpoints.py",
)

DAMAGES = "tests/test_damaged_state.py::"


# Checkpoints.


class Trained(tf.Module):
    """As much of a method as a checkpoint needs."""

    def __init__(self, size=3, step=5):
        super().__init__()
        self.step = tf.Variable(step, dtype=tf.int64)
        self.query_encoder = tf.Module()
        self.query_encoder.kernel = tf.Variable(tf.zeros([size]))


def blocked(workdir):
    """A workdir with a file where checkpoints should be."""
    workdir.mkdir(exist_ok=True)
    (workdir / "checkpoints").write_text("")
    return workdir


@ROWS.followed(
    "training/checkpoints.py:_write", "Free space or mend the folder"
)
def folder_that_takes_no_checkpoint(tmp_path):
    workdir = blocked(tmp_path / "run")
    yield lambda: checkpoints.save(Trained(), workdir, 2, {})
    (workdir / "checkpoints").unlink()
    yield lambda: checkpoints.save(Trained(), workdir, 2, {})


@ROWS.followed("training/checkpoints.py:wait_for", "Put --workdir on a shared")
def workdir_that_others_do_not_see(tmp_path):
    chief, mine = tmp_path / "chief", tmp_path / "mine"
    checkpoints.save(Trained(), chief, 2, {})
    yield lambda: checkpoints.wait_for(mine, 5, seconds=0.0)
    yield lambda: checkpoints.wait_for(chief, 5, seconds=0.0)


@ROWS.followed("training/checkpoints.py:restore", "Evaluate, fine-tune or")
def checkpoint_of_an_encoder_alone(tmp_path):
    encoder = Trained().query_encoder
    path = checkpoints.save_query_encoder(encoder, tmp_path, 5, {})
    yield lambda: checkpoints.restore(Trained(), path)
    for command in ("knn", "finetune", "export"):
        words = [command, f"--workdir={tmp_path}"]
        yield lambda w=words: flags.parse(w, main.COMMANDS)
    yield lambda: checkpoints.restore_query_encoder(encoder, path)
    other = checkpoints.save(Trained(), tmp_path / "other", 2, {})
    yield lambda: checkpoints.restore(Trained(), other)


@ROWS.followed("training/checkpoints.py:restore", "of another configuration or")
def checkpoint_of_another_network(tmp_path):
    path = checkpoints.save(Trained(), tmp_path, 2, {})
    yield lambda: checkpoints.restore(Trained(size=4), path)
    yield lambda: checkpoints.restore(Trained(), path)
    other = checkpoints.save(Trained(size=4), tmp_path / "other", 2, {})
    yield lambda: checkpoints.restore(Trained(size=4), other)


@ROWS.followed("training/checkpoints.py:restore_parts", "Use the conf")
def encoder_of_another_network(tmp_path):
    path = checkpoints.save(Trained(), tmp_path, 2, {})

    def restore(size):
        encoder = Trained(size).query_encoder
        checkpoints.restore_query_encoder(encoder, path)

    yield lambda: restore(4)
    yield lambda: restore(3)


ROWS.tested(
    DAMAGES + "test_a_checkpoint_is_used_when_its_step_is_written_down",
    ("training/checkpoints.py:_meta_remedy", "into the file to use it"),
)
ROWS.tested(
    DAMAGES
    + "test_a_checkpoint_moved_away_lets_the_run_go_on_from_the_one_before",
    ("training/checkpoints.py:_instead", "which keeps it, and go on from"),
)


@ROWS.followed("training/checkpoints.py:_instead", "Bring back a copy of it")
def only_checkpoint_is_damaged(tmp_path):
    path = checkpoints.save(Trained(), tmp_path / "run", 2, {})
    copy = shutil.copytree(path, tmp_path / "copy")
    (path / "state.index").write_bytes(b"none")
    yield lambda: checkpoints.restore(Trained(), path)
    shutil.rmtree(path)
    shutil.copytree(copy, path)
    yield lambda: checkpoints.restore(Trained(), path)
    assert checkpoints.resumed(tmp_path / "another") is None  # starts anew


# Figures.


def opened(path):
    """Opens metrics.csv as a run does that goes on."""
    metrics_csv.check(path)
    metrics_csv.MetricsFile(path).close()


def _metrics(place, words, damage):
    """A row of a damaged metrics.csv, which is moved away."""

    @ROWS.followed(f"monitoring/metrics_csv.py:{place}", words)
    def row(tmp_path):
        path = tmp_path / "metrics.csv"
        damage(path)
        yield lambda: opened(path)
        path.rename(tmp_path / "moved.csv")
        yield lambda: opened(path)


_metrics("_parse", "Move it away: the run goes on", lambda path: path.mkdir())
_metrics(
    *("check", "or move the file away, which keeps it, to start"),
    lambda path: path.write_text("step,warp\n1,2\n"),
)


@ROWS.followed("monitoring/metrics_csv.py:_parse", "Or mend its first line")
def header_that_is_garbled(tmp_path):
    path = tmp_path / "metrics.csv"
    opened(path)
    whole = path.read_text()
    path.write_text("\0\0\0" + whole[3:])
    yield lambda: opened(path)
    path.write_text(whole)
    yield lambda: opened(path)
    path.write_text("\0\0\0" + whole[3:])
    path.rename(tmp_path / "moved.csv")
    yield lambda: opened(path)


@ROWS.followed("monitoring/metrics_csv.py:MetricsFile.append", "call cut_back")
def steps_that_come_again(tmp_path):
    file = metrics_csv.MetricsFile(tmp_path / "metrics.csv")
    for step in (5, 10):
        file.append({"step": step, "epoch": 1})
    yield lambda: file.append({"step": 7, "epoch": 1})
    file.cut_back(5)
    yield lambda: file.append({"step": 7, "epoch": 1})
    file.close()


@ROWS.followed("state_files.py:read_json", "Use the version that wrote it")
def file_of_a_later_format(tmp_path):
    path = tmp_path / "a.json"
    later = state_files.FORMAT + 1
    path.write_text(json.dumps({"format": later, "a": 1}))
    yield lambda: state_files.read_json(path)
    # As the version of that format reads it.
    yield lambda: state_files.read_json(path, newest=later)


# Reports.


def run_at(workdir, **saved):
    """The workdir of a run, with entries of config.json changed."""
    config = configs.load("quickstart", {"data.source": "shapes:train"})
    workdirs.save(config, workdir)
    path = workdir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | saved))
    return workdir


@ROWS.followed("reporting/page.py:read_runs", "Give each once")
def one_run_twice(tmp_path):
    first, second = run_at(tmp_path / "a"), run_at(tmp_path / "b")
    yield lambda: page.read_runs([first, first])
    yield lambda: page.read_runs([first])
    yield lambda: page.read_runs([first, second])


@ROWS.followed("reporting/page.py:_read_run", "Give the --workdir of the")
def report_of_no_run(tmp_path):
    run = run_at(tmp_path / "run")
    yield lambda: page.read_runs([tmp_path])
    yield lambda: page.read_runs([run])
    task = configs.load("linear", {}, "linear")
    workdirs.save(task, tmp_path / "linear", command="linear")
    yield lambda: page.read_runs([tmp_path / "linear"])


@ROWS.followed("reporting/page.py:_read_run", "Use the version of moco_tf that")
def report_of_a_command_to_come(tmp_path, monkeypatch):
    run = run_at(tmp_path, command="segment")
    yield lambda: page.read_runs([run])
    # As a version that knows the command reads it.
    known = dict(page.config_schema.TABLES)
    monkeypatch.setitem(page.config_schema.TABLES, "segment", known["pretrain"])
    monkeypatch.setattr(
        page.workdirs, "load_saved", lambda *_: configs.load("quickstart")
    )
    yield lambda: page.read_runs([run])


@ROWS.followed("reporting/samples.py:", "give the run's `pretrain` command")
def report_of_images_that_moved(tmp_path):
    greys = {"1.png": 9, "2.png": 99}
    spec = plain_frozen.write_greys(tmp_path / "first", greys)
    shutil.move(tmp_path / "first", tmp_path / "new")
    moved = f"folder:{tmp_path / 'new'}"
    config = configs.load("quickstart", {"data.source": spec})
    run = types.SimpleNamespace(config=config, starts=[])
    text = yield lambda: samples.open_source(run, spec)
    named = {name for choice in following.advised(text) for name in choice}
    assert named == {"data.source", "knn.query"}
    # tests/test_resuming.py: the command notes the new place.
    yield lambda: samples.open_source(run, moved)


@ROWS.followed("reporting/findings.py:readings", "put a copy of the file there")
def figures_that_are_gone(tmp_path):
    workdir = small_report.write(tmp_path / "run", [small_report.row(1)])
    checkpoints.save(Trained(), workdir, 2, {})
    copy = shutil.copy(workdir / "metrics.csv", tmp_path)
    (workdir / "metrics.csv").write_text("")

    def read():
        (run,) = page.read_runs([workdir])
        return findings.readings(run)

    yield read
    shutil.copy(copy, workdir)
    yield read


@ROWS.followed("reporting/findings.py:_read_speed", "The bottleneck is the")
def run_that_waited(tmp_path):
    def speed(share):
        rows = [
            {"steps": 9, "images_per_second": 9.0, "input_wait_share": share}
        ]
        config = configs.load("quickstart")
        run = types.SimpleNamespace(rows=rows, config=config)
        return findings._read_speed(run)

    text = yield lambda: speed(0.5)
    (remedy,) = following.advised(text)
    yield lambda: configs.load("quickstart", remedy)
    yield lambda: speed(0.1)


@ROWS.followed("reporting/pictures.py:lay_out", "Give an earlier --checkpoint")
def map_of_a_diverged_encoder():
    earlier = np.random.default_rng(0).standard_normal([5, 3])
    yield lambda: pictures.lay_out(earlier * np.nan)
    yield lambda: pictures.lay_out(earlier)
    words = ["report", "--workdir=x", "--checkpoint=5"]
    yield lambda: flags.parse(words, main.COMMANDS)


ROWS.states(
    following.SAYS_WHAT_IS_TAKEN,
    ("reporting/page.py:write", "A map shows 0 images or more"),
    ("reporting/page.py:write", "must name a file that ends in"),
)
ROWS.states(
    following.PART_OF_ANOTHER,
    # The report says them in place of a picture.
    ("reporting/pictures.py:_map", "A map needs two images"),
    ("reporting/pictures.py:_near", "A single image has no"),
    ("reporting/pictures.py:lay_out", "the encoder has collapsed"),
    ("reporting/samples.py:open_source", "{_MOVED}"),
    # Of a file, whose reader says how to go on without it.
    ("state_files.py:read_json", "as its format"),
    ("state_files.py:read_object", "is no JSON"),
    ("state_files.py:read_table", "has no header of"),
    ("monitoring/metrics_csv.py:_parse", "has a damaged header"),
    ("training/checkpoints.py:read_meta", "names no step"),
)
ROWS.states(
    following.OF_A_CALLER,
    ("monitoring/metrics_csv.py:MetricsFile.append", "has a fixed header"),
)
ROWS.states(
    following.NO_MESSAGE,
    ("reporting/charts.py:", "read it with uniformity"),
    ("reporting/charts.py:", "spread more evenly over"),
)
