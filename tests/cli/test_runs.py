import csv
import json

import pytest

from moco_tf.cli import main as cli
from tests.doctor import photographs
from tests.reporting import small_report


def examine(folder, *words):
    return cli.run(
        [
            "doctor",
            "--config=quickstart",
            f"--config.data.source=folder:{folder}",
            "--config.knn.bank=",
            "--config.knn.query=",
            "--config.train.batch_size=8",
            "--config.optimizer.learning_rate=0.00375",
            "--config.model.width=0.125",
            "--devices=cpu",
            "--trial_steps=0",
            *words,
        ]
    )


def test_doctor_prints_a_table_and_names_the_images_in_the_workdir(
    tmp_path, capsys
):
    folder = photographs.write(tmp_path / "images", 20)
    (folder / "0007.jpg").write_bytes(b"")
    workdir, report = tmp_path / "run", tmp_path / "table.json"
    words = [f"--workdir={workdir}", f"--json={report}"]
    words.append("--config.data.max_corrupt_fraction=0.1")
    assert examine(folder, *words) == 0
    printed = capsys.readouterr().out
    assert "unreadable     warn  1 (5 %) cannot be read: 0007.jpg" in printed
    assert "--config.moco.queue_size=16" in printed  # of both views
    with (workdir / "doctor.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[1][:2] == ["0007.jpg", "unreadable"]
    table = json.loads(report.read_text())
    assert table["verdict"] == "warn"
    assert table["images"]["unreadable"] == 1
    assert table["overrides"]["moco.queue_size"] == 16
    checks = {row["check"] for row in table["checks"]}
    assert {"source", "queue", "memory", "disk", "devices"} <= checks
    # A run may start in this workdir.
    assert {path.name for path in workdir.iterdir()} == {"doctor.csv"}


def test_a_check_that_fails_gives_status_1(tmp_path, capsys):
    folder = photographs.write(tmp_path / "images", 9)
    (folder / "0007.jpg").write_bytes(b"")
    assert examine(folder) == 1
    printed = capsys.readouterr()
    assert "1 check(s) failed: unreadable." in printed.err
    assert "Pass --path=FILE.csv" in printed.out


def test_without_images_the_other_checks_still_run(tmp_path, capsys):
    report = tmp_path / "table.json"
    assert examine(tmp_path, f"--json={report}") == 1
    assert "failed: source." in capsys.readouterr().err
    table = json.loads(report.read_text())
    verdicts = {row["check"]: row["verdict"] for row in table["checks"]}
    assert verdicts["source"] == "fail"
    assert verdicts["memory"] == "ok"
    assert table["images"] == {}


def test_a_configuration_that_cannot_work_fails(tmp_path, capsys):
    folder = photographs.write(tmp_path / "images", 9)
    assert examine(folder, "--config.model.bn_groups=3") == 1
    printed = capsys.readouterr()
    assert "failed: configuration." in printed.err
    assert "model.bn_groups must divide train.batch_size" in printed.out


@pytest.mark.parametrize(
    "words, message",
    [
        (["doctor"], "config.data.source must name the images"),
        (["doctor", "--config=none"], "no configuration 'none'"),
        (["doctor", "--config=linear"], "lacks "),
        (
            ["doctor", "--config=quickstart", "--trial_steps=-1"],
            "--trial_steps takes 0 or more. Received -1.",
        ),
        (
            ["doctor", "--config=quickstart", "--prove=yes"],
            "--prove must be one of auto, always, never. Received 'yes'.",
        ),
    ],
)
def test_a_doctor_that_is_not_understood_ends_with_status_2(
    words, message, capsys
):
    assert cli.run(words) == 2
    assert message in capsys.readouterr().err


def test_several_workdirs_make_one_file(tmp_path, capsys):
    words = ["report", "--images=0", f"--path={tmp_path / 'both.html'}"]
    for name in ("one", "two"):
        workdir = small_report.write(tmp_path / name)
        words.append(f"--workdir={workdir}")
    assert cli.run(words) == 0
    assert "both.html (0." in capsys.readouterr().out
    assert "Comparison of 2 runs" in (tmp_path / "both.html").read_text()


def test_the_file_is_in_the_workdir_by_default(tmp_path):
    workdir = small_report.write(tmp_path / "run")
    assert cli.run(["report", f"--workdir={workdir}", "--images=0"]) == 0
    assert (workdir / "report.html").is_file()


def test_a_folder_that_is_no_run_ends_with_status_1(tmp_path, capsys):
    assert cli.run(["report", f"--workdir={tmp_path}"]) == 1
    assert "its workdir holds config.json" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "--workdir must be given"),
        (["--workdir=x", "--images=many"], "--images takes one whole number"),
    ],
)
def test_a_report_that_is_not_understood_ends_with_status_2(
    words, message, capsys
):
    assert cli.run(["report", *words]) == 2
    assert message in capsys.readouterr().err
