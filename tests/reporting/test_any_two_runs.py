"""Any two workdirs, of any method, command and age, stand in one report."""

import os
import re
import shutil

import pytest

from moco_tf import config as configs
from moco_tf import config_schema
from moco_tf.cli import main as cli
from moco_tf.methods import table
from moco_tf.reporting import charts, drawing, findings, page
from tests.reporting import every_workdir, small_report

TASKS = sorted(set(config_schema.TABLES) - {"pretrain"})
KINDS = sorted(
    [
        *table.METHODS,
        *(f"columns{n}" for n in range(len(every_workdir.COLUMNS))),
        *TASKS,
        *(f"{command}, begun" for command in TASKS),
        "oldest",
        "elsewhere",
        "begun",
        "cached",
    ]
)


@pytest.fixture(name="workdirs", scope="module")
def _workdirs(tmp_path_factory):
    made = every_workdir.write_all(tmp_path_factory.mktemp("workdirs"))
    assert sorted(made) == KINDS
    return made


@pytest.fixture(name="undrawn")
def _undrawn(monkeypatch):
    """Charts without their SVG, which takes most of the time."""
    monkeypatch.setattr(
        drawing, "draw", lambda chart: drawing.Drawn(chart, {}, {})
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_can_be_compared_with_any_other(workdirs, undrawn, kind):
    for other in KINDS[KINDS.index(kind) :]:
        pair = [workdirs[kind], workdirs[other]]
        runs = page.read_runs(dict.fromkeys(pair))
        text = page.render(runs, images=0)
        for run in runs:
            assert str(run.workdir) in text
        if kind == other:
            continue
        differences = dict(findings.differences(runs))
        fields = [configs.flatten(run.config.to_dict()) for run in runs]
        for name in fields[0].keys() | fields[1].keys():
            expected = [x.get(name, findings.NO_FIELD) for x in fields]
            assert differences.get(name, expected) == expected, name
            assert (name in differences) == (expected[0] != expected[1]), name
            assert expected[0] == expected[1] or f"<code>{name}</code>" in text


def test_twenty_runs_are_rows_and_have_a_curve_each(workdirs, undrawn):
    runs = page.read_runs(list(workdirs.values())[:20])
    text = page.render(runs, images=0)
    table = text[text.index('aria-label="Final figures"') :]
    table = table[: table.index("</table>")]
    rows = re.findall(r'<th scope="row"><span.*?</span>(.*?)</th>', table)
    assert rows == [run.name for run in runs]
    for key in ("loss", "knn"):
        series = charts.draw_all(runs)[key].chart.series
        names = [each.name for each in series]
        assert len(names) > 8 and len(set(names)) == len(names)
        assert set(names) <= set(rows)


def test_the_command_line_compares_two_methods(workdirs, tmp_path, capsys):
    path = tmp_path / "both.html"
    words = ["report", "--images=0", f"--path={path}"]
    words += [f"--workdir={workdirs[name]}" for name in ("moco", "simclr")]
    assert cli.run(words) == 0, capsys.readouterr().err
    text = path.read_text()
    cells = r"<code>moco.queue_size</code></th>\s*<td><code>(.*?)</code></td>"
    cells += r"<td><code>(.*?)</code></td>"
    assert re.search(cells, text).groups()[1] == findings.NO_FIELD
    assert "time not noted" not in text


def test_tasks_bring_their_curves_and_their_result(workdirs):
    run = page.read_runs([workdirs["finetune"]])[0]
    assert run.command == "finetune" and not run.is_pretraining
    figures = findings.figures(run)
    assert figures["top-1 of the test set"] == "50.00 % (40.00 to 60.00)"
    assert figures["top-1 of held-out images, last epoch"] == "50.00 %"
    assert "loss at chance" not in figures
    drawn = charts.draw_all([run])
    assert {"loss", "top1", "evaluated_top1"} <= drawn.keys()
    cached = page.read_runs([workdirs["cached"]])[0]
    assert findings.progress(cached) == "finished"
    assert findings.readings(cached)[0][0] == "plain"


def test_the_last_figures_have_the_time_of_their_row(tmp_path):
    workdir = small_report.write(tmp_path / "run")
    rows = [small_report.row(1, time=86_400), small_report.row(2, time=90_000)]
    small_report.write_rows(workdir, rows)
    copy = shutil.copytree(workdir, tmp_path / "copy")
    os.utime(copy / "metrics.csv", (1e9, 1e9))
    for each in (workdir, copy):
        (run,) = page.read_runs([each])
        assert f"{run.written:%Y-%m-%d %H:%M}" == "1970-01-02 01:00"


def test_a_run_before_the_times_has_none(workdirs, undrawn):
    for name in ("oldest", "columns4"):
        (run,) = page.read_runs([workdirs[name]])
        assert run.rows and run.written is None
        assert "time not noted" in page.render([run], images=0)


def test_line_ends_of_another_system_are_no_damage(tmp_path, capsys):
    workdir = small_report.write(tmp_path / "run", [small_report.row(1)])
    before = page.read_runs([workdir])[0]
    for path in workdir.iterdir():
        data = path.read_bytes().replace(b"\n", b"\r\n")
        path.write_bytes(data)
    assert page.read_runs([workdir])[0] == before
    assert capsys.readouterr().out == ""
