"""benchmarks/whole_schedule.py: figures collected and merged, and the page."""

import argparse
import importlib
import json
import pathlib
import sys

import pytest

from moco_tf import config as configs
from moco_tf.cli import flags
from moco_tf.cli import main as cli
from moco_tf.monitoring import metrics_csv

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
# In place of the twin: an epoch of it is a line and a checkpoint.
FAKE = """#!{python}
import json, pathlib, sys
flags = dict(word[2:].split("=", 1) for word in sys.argv[2:])
output, seed = pathlib.Path(flags["output"]), int(flags["seed"])
state = output.with_suffix(f".seed{{seed}}.pt")
first = int(state.read_text()) + 1 if state.exists() else 0
for epoch in range(first, int(flags["stop_after"]) + 1):
    if epoch == {fails_at}:
        sys.exit("no more")
    line = {{"seed": seed, "epoch": epoch, "loss": epoch and 7 - epoch / 10,
             "knn_backbone": 30 + epoch / 2, "knn_output": 29 + epoch / 2,
             "seconds": 60.0}}
    with output.open("a") as file:
        print(json.dumps(line), file=file)
    state.write_text(str(epoch))
"""


@pytest.fixture(name="script", scope="module")
def _script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("whole_schedule")


@pytest.fixture(name="page", scope="module")
def _page(script):
    return script.page


def _options(tmp_path, fails_at=-1, **others):
    python = tmp_path / "python"
    python.write_text(FAKE.format(python=sys.executable, fails_at=fails_at))
    python.chmod(0o755)
    return argparse.Namespace(
        **{
            "data": tmp_path,
            "results": tmp_path / "results.jsonl",
            "epochs_now": 0,
            "twin_python": python,
        }
        | others
    )


def _advance(script, tmp_path, **others):
    run = script.Run("twin", 1, tmp_path)
    with script.alone(tmp_path) as lock:
        return script.advance(run, _options(tmp_path, **others), lock)


def _row(run, seed, epoch, value=0.0, **others):
    return {
        "run": run,
        "seed": seed,
        "epoch": epoch,
        "loss": 7 - epoch / 25 + value,
        "knn_backbone": 30 + epoch / 2.5 + value,
        "knn_output": 29 + epoch / 2.5 + value,
        "seconds": 72.0,
        "resumed": 0,
        "machine": "a processor",
        "origin": "first",
    } | others


def test_figures_of_a_workdir_are_those_of_its_finished_epochs(
    script, tmp_path
):
    file = metrics_csv.MetricsFile(tmp_path / "metrics.csv")
    for row in (
        # An epoch in two rows, as a run that was stopped inside may have.
        {"step": 20, "epoch": 1, "steps": 20, "loss": 7.0},
        {"step": 39, "epoch": 1, "steps": 19, "loss": 6.0},
        {
            "step": 39,
            "epoch_loss": (20 * 7.0 + 19 * 6.0) / 39,
            "knn_backbone": 0.31237,
            "knn_projection": 0.3,
        },
        # kNN of this one has not come.
        {"step": 78, "epoch": 2, "steps": 39, "loss": 5.0},
    ):
        file.append(row)
    file.close()
    log = tmp_path / "log"
    log.write_text(
        "kNN before training: raw pixels 28.00 %  untrained encoder "
        "(projection) 27.93 %\n"
    )
    figures = script.read_ours(tmp_path / "metrics.csv", log)
    none = {"seconds": None}
    assert figures == {
        0: {"loss": None, "knn_backbone": None, "knn_output": 27.93} | none,
        1: {"loss": 6.5128, "knn_backbone": 31.24, "knn_output": 30.0} | none,
    }


def test_a_run_that_has_not_begun_has_no_figures(script, tmp_path):
    for kind in script.page.TITLES:
        run = script.Run(kind, 0, tmp_path)
        assert run.finished() == {}
        assert script.rows_of(run, {}) == []


def test_a_run_goes_on_after_each_stop_and_counts_them(script, tmp_path):
    results = tmp_path / "results.jsonl"
    assert _advance(script, tmp_path, epochs_now=2) == ""
    rows = script.read_lines(results)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert {row["resumed"] for row in rows} == {0}
    assert "ended with 1 at epoch 4 of 50" in _advance(
        script, tmp_path, fails_at=5
    )
    assert _advance(script, tmp_path) == ""
    assert _advance(script, tmp_path) == ""  # has all: no further start
    rows = script.read_lines(results)
    assert [row["epoch"] for row in rows] == list(range(51))
    assert [row["resumed"] for row in rows] == [0] * 3 + [1] * 2 + [2] * 46
    assert {row["origin"] for row in rows} == {rows[0]["origin"]}
    assert rows[50]["knn_output"] == 54.0
    assert rows[50]["machine"] == script.measure.machine()


def test_a_run_without_its_checkpoint_is_refused_with_a_remedy(
    script, tmp_path
):
    _advance(script, tmp_path, epochs_now=1)
    (tmp_path / "twin_1.seed1.pt").unlink()
    message = _advance(script, tmp_path)
    assert "figures of 1 epochs and no checkpoint" in message
    before = script.read_lines(tmp_path / "results.jsonl")
    for path in tmp_path.glob("twin_1*"):  # as the message says
        path.rename(tmp_path / f"aside_{path.name}")
    assert _advance(script, tmp_path, epochs_now=2) == ""
    rows = script.read_lines(tmp_path / "results.jsonl")
    assert len({row["origin"] for row in rows}) == 2
    assert [row for row in before if row not in rows] == []


def test_two_scripts_do_not_train_in_one_folder(script, tmp_path):
    with script.alone(tmp_path):
        with pytest.raises(SystemExit, match="A run goes on in"):
            with script.alone(tmp_path):
                pass
    with script.alone(tmp_path):
        pass


def test_merging_keeps_what_is_there_and_fills_gaps(script):
    here = [_row("twin", 0, 1, seconds=None), _row("twin", 0, 2)]
    there = [
        _row("twin", 0, 1, 0.5, seconds=80.0),  # the same attempt: stays
        _row("twin", 0, 1, 0.5, origin="second"),
        _row("ours_float32", 2, 1),
    ]
    merged = script.merge(here, there)
    assert merged == [
        there[2],
        here[0] | {"seconds": 80.0},
        here[1],
        there[1],
    ]
    assert script.merge(merged, [*there, *here]) == merged


def test_results_of_another_machine_are_added(script, tmp_path):
    results = tmp_path / "results.jsonl"
    script.update(results, [_row("twin", 0, 1)])
    other = tmp_path / "other.jsonl"
    earlier = {"run": "ours", "seed": 0, "epoch": 1, "loss": 7.0}
    lines = [{"what": "a trial"}, earlier, _row("twin", 1, 1)]
    other.write_text("\n".join(map(json.dumps, lines)))  # no line break at last
    rows = script.update(results, script.read_added(other))
    assert rows == script.read_lines(results)
    assert rows == [
        {"what": "a trial"},
        earlier | {"run": "earlier_ours", "origin": "earlier"},
        _row("twin", 0, 1),
        _row("twin", 1, 1),
    ]
    with pytest.raises(SystemExit, match="is no file"):
        script.read_added(tmp_path / "none.jsonl")


def test_a_torn_last_line_is_left_out_and_a_damaged_one_is_refused(
    script, tmp_path
):
    path = tmp_path / "lines"
    path.write_text('{"a": 1}\n{"a": ')
    assert script.read_lines(path) == [{"a": 1}]
    path.write_text('{"a": \n{"a": 1}\n')
    with pytest.raises(SystemExit, match="damaged at line 1"):
        script.read_lines(path)


def test_the_list_has_the_first_files_of_each_class(
    script, tmp_path, monkeypatch
):
    monkeypatch.setattr(script, "PER_CLASS", 2)
    for name in ("train/cat", "train/dog", "test/cat"):
        (tmp_path / name).mkdir(parents=True)
        for number in (3, 1, 2):
            (tmp_path / name / f"{number}.jpg").touch()
    (tmp_path / "train" / "notes.txt").touch()
    script.write_list(tmp_path, tmp_path)
    assert (tmp_path / "first_1000.txt").read_text().splitlines() == [
        f"{tmp_path}/train/{name}/{number}.jpg\t{name}"
        for name in ("cat", "dog")
        for number in (1, 2)
    ]
    (tmp_path / "train/dog/1.jpg").unlink()
    (tmp_path / "train/dog/2.jpg").unlink()
    with pytest.raises(SystemExit, match=r"dog must have 2 files \*.jpg"):
        script.write_list(tmp_path, tmp_path)
    with pytest.raises(SystemExit, match="must have train/CLASS"):
        script.write_list(tmp_path / "test", tmp_path)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_our_command_is_the_recipe_at_a_quarter(script, tmp_path, precision):
    run = script.Run(f"ours_{precision}", 2, tmp_path)
    words = run.command(_options(tmp_path), 10)
    _, options, overrides = flags.parse(words[3:], cli.COMMANDS)
    config = configs.load(options.config, overrides)
    assert config.train.precision == precision
    assert config.seed == 2
    assert config.train.max_steps == 390  # 39 batches of 256 from 10,000
    assert config.train.epochs == 50
    assert config.model.bn_groups == 8
    assert config.knn.bank == config.data.source
    recipe = configs.load("moco_cifar10")
    for name in ("views", "image_size"):
        assert config.data[name] == recipe.data[name]
    assert (config.knn.k, config.knn.temperature) == (200, 0.1)


def test_runs_are_chosen_by_name(script, tmp_path):
    options = argparse.Namespace(runs=tmp_path, only="twin_2,ours_float32_0")
    names = [run.name for run in script.chosen(options)]
    assert names == ["ours_float32_0", "twin_2"]
    options.only = ""
    assert len(script.chosen(options)) == 9
    options.only = "ours_0"
    with pytest.raises(SystemExit, match="Received ours_0"):
        script.chosen(options)


def test_a_python_without_torch_is_refused_before_the_first_run(
    script, tmp_path
):
    for python in (tmp_path / "none", "false"):
        with pytest.raises(SystemExit, match="has no torch"):
            script.check_twin(python)


def _complete(run, values):
    """All epochs of three seeds, each off by a value."""
    return [
        _row(run, seed, epoch, value)
        for seed, value in enumerate(values)
        for epoch in range(1, 51)
    ]


def test_the_table_has_mean_and_range_of_the_seeds(page):
    rows = _complete("twin", (-0.5, 0.0, 1.1))
    rows += [_row("ours_float32", 0, 1), _row("ours_float32", 1, 1, 1.0)]
    rows += [_row("ours_mixed_bfloat16", 2, 50)]
    lines = page.table(page.longest(rows), "knn_backbone", 2).splitlines()
    assert lines[2] == (
        "| 1 | 30.90 (30.40 to 31.40), 2 seeds |  | 30.60 (29.90 to 31.50) |"
    )
    assert lines[-1] == "| 50 |  | 50.00 | 50.20 (49.50 to 51.10) |"


def test_the_page_says_what_is_not_complete(page, tmp_path):
    rows = _complete("twin", (-0.5, 0.0, 1.1))[:-3]
    rows += [_row("ours_float32", 0, 1, resumed=3, seconds=None)]
    page.write(rows, tmp_path)
    text = (tmp_path / "whole_schedule.md").read_text()
    assert "; twin, float32: seed 2 47 of 50. The" in text
    assert "ours, float32: seed 0 1 of 50, seed 1 not begun, seed 2" in text
    assert "ours, bfloat16: seed 0 not begun, seed 1 not begun" in text
    assert "| twin, float32 | 0 | 50 | 0 | 1.00 | a processor |" in text
    assert "| ours, float32 | 0 | 1 | 3 | 0.00 (of 0 epochs) |" in text
    assert "twin, float32: 2 of 3 seeds." in text
    assert "less twin" not in text
    assert (tmp_path / "whole_schedule.png").stat().st_size < 150_000


@pytest.mark.parametrize(
    ("offset", "verdict", "losses"),
    [
        (0.2, "+0.20 points on the output; within the 1.5", "48 epochs: bands "
         "of the seeds overlap in 48, each mean is in the other's band in 48; "
         "the means differ by 0.200 at most"),
        (1.6, "+1.60 points on the output; **not within** the 1.5", "48 "
         "epochs: bands of the seeds overlap in 48, each mean is in the "
         "other's band in 0;"),
    ],
)  # fmt: skip
def test_the_page_compares_final_means_and_bands(
    page, tmp_path, offset, verdict, losses
):
    rows = _complete("twin", (-1.0, 0.0, 1.0))
    rows += _complete("ours_float32", (offset - 1, offset, offset + 1))
    page.write(rows, tmp_path)
    text = (tmp_path / "whole_schedule.md").read_text()
    assert "ours, float32, less twin, float32, kNN means" in text
    assert verdict in text
    assert losses in text
    assert "bfloat16: 0 of 3 seeds" in text


def test_the_attempt_that_came_furthest_counts_and_others_are_mentioned(
    page, tmp_path
):
    rows = [_row("twin", 0, epoch, 9.0) for epoch in (1, 2)]
    rows += [_row("twin", 0, epoch, origin="again") for epoch in (1, 2, 3)]
    curve = page.longest(rows)["twin"][0]
    assert [row["origin"] for row in curve.values()] == ["again"] * 3
    page.write(rows, tmp_path)
    text = (tmp_path / "whole_schedule.md").read_text()
    assert "1 attempts that were begun anew" in text


def test_earlier_runs_are_a_column_of_their_own_with_their_source(
    page, tmp_path
):
    earlier = {"run": "earlier_twin", "seed": 0, "origin": "earlier"}
    figures = {"knn_backbone": 33.2, "knn_output": 32.6}
    rows = [
        {"what": "another twin, stopped"},
        {**earlier, **figures, "epoch": 0, "loss": None},
        {**earlier, **figures, "epoch": 3, "loss": 6.2},
        _row("twin", 0, 3, 0.5),
    ]
    page.write(rows, tmp_path)
    text = (tmp_path / "whole_schedule.md").read_text()
    assert "| 3 |  |  | 31.70 | 33.20 |" in text
    assert "in their own words: another twin, stopped" in text
