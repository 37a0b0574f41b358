import json
import pathlib

import pytest

from moco_tf.reporting import page
from tests.reporting import small_report


def _read(workdir):
    return page.read_runs([str(workdir)])[0]


def test_half_a_last_line_is_left_out(tmp_path):
    rows = [small_report.row(1), small_report.row(2)]
    workdir = small_report.write(tmp_path / "run", rows)
    with open(workdir / "metrics.csv", "a") as file:
        file.write("15,3,5,6.")
    before = (workdir / "metrics.csv").read_bytes()
    assert [row["step"] for row in _read(workdir).rows] == [5, 10]
    assert (workdir / "metrics.csv").read_bytes() == before


def test_a_run_without_figures_has_no_rows(tmp_path):
    run = _read(small_report.write(tmp_path / "run"))
    assert run.rows == [] and run.written is None
    assert run.steps_per_epoch is None


def test_the_first_epoch_has_the_length_of_all(tmp_path):
    rows = [
        small_report.row(1, step=3, epoch_loss=None),
        small_report.row(1, step=7),
        small_report.row(2, step=9, epoch_loss=None),
    ]
    run = _read(small_report.write(tmp_path / "run", rows))
    assert run.steps_per_epoch == 7
    assert run.epoch_of(run.rows[0]) == pytest.approx(3 / 7)


def test_a_damaged_line_makes_no_other_epochs(tmp_path):
    rows = [
        small_report.row(number, step=7 * number - early, epoch_loss=loss)
        for number in range(1, 5)
        for early, loss in ((4, None), (0, 6.0))
    ]
    workdir = small_report.write(tmp_path / "run", rows)
    path = workdir / "metrics.csv"
    lines = path.read_text().splitlines(keepends=True)
    del lines[2]  # the last of the first epoch
    path.write_text("".join(lines))
    assert _read(workdir).steps_per_epoch == 7
    del lines[1]
    path.write_text("".join(lines))
    assert _read(workdir).steps_per_epoch == 7


def test_within_the_first_epoch_a_checkpoint_has_its_length(tmp_path):
    rows = [small_report.row(1, step=3, epoch_loss=None)]
    workdir = small_report.write(tmp_path / "run", rows)
    assert _read(workdir).steps_per_epoch is None
    folder = workdir / "checkpoints" / "step-000000003"
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"step": 3, "epoch": 0.25}))
    assert _read(workdir).steps_per_epoch == 12


def test_results_of_other_commands_are_read(tmp_path):
    workdir = small_report.write(tmp_path / "run")
    (workdir / "linear").mkdir()
    result = {"top1": 0.5, "top1_low": 0.4, "top1_high": 0.6}
    (workdir / "linear" / "result.json").write_text(json.dumps(result))
    (workdir / "linear" / "config.json").write_text('{"command": "linear"}')
    (workdir / "broken").mkdir()
    (workdir / "broken" / "result.json").write_text('{"top1": 0.')
    assert _read(workdir).evaluations == [
        page.Evaluation("linear", "linear", 0.5, 0.4, 0.6)
    ]


@pytest.mark.parametrize(
    "paths, names",
    [
        (["/runs/a", "/runs/b"], ["a", "b"]),
        (["/x/a", "/y/a"], ["x/a", "y/a"]),
        (["/x/one/a", "/x/two/a", "/x/b"], ["one/a", "two/a", "x/b"]),
        (["/"], ["/"]),
    ],
)
def test_names_are_as_short_as_they_can_be(paths, names):
    assert page.short_names([pathlib.Path(path) for path in paths]) == names


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds config.json. Received"):
        _read(tmp_path)


def test_a_run_is_not_compared_with_itself(tmp_path):
    workdir = small_report.write(tmp_path / "run")
    paths = [str(workdir), str(workdir / ".." / "run")]
    with pytest.raises(ValueError, match="same workdir more than once"):
        page.read_runs(paths)
