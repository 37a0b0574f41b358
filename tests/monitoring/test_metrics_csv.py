import math
import os
import time

import numpy as np
import pytest

from moco_tf.monitoring import metrics_csv


def _file(tmp_path, columns=("loss", "speed")):
    return metrics_csv.MetricsFile(tmp_path / "metrics.csv", columns)


def _text(tmp_path):
    return (tmp_path / "metrics.csv").read_bytes().decode()


def test_a_new_file_holds_its_header(tmp_path):
    _file(tmp_path)
    assert _text(tmp_path) == "step,loss,speed\n"


def test_rows_are_on_disk_at_once(tmp_path):
    metrics = _file(tmp_path)
    metrics.append({"step": 50, "loss": 0.5, "speed": 83})
    metrics.append({"step": 100, "loss": 0.25})
    assert _text(tmp_path) == "step,loss,speed\n50,0.5,83\n100,0.25,\n"


def test_floats_come_back_with_the_same_bits(tmp_path):
    values = [0.1 + 0.2, 1e-300, 7.0, math.inf, float(np.float32(0.1))]
    metrics = _file(tmp_path)
    for step, value in enumerate(values):
        metrics.append({"step": step, "loss": value})
    assert [row["loss"] for row in metrics.rows()] == values


def test_numpy_scalars_are_plain_numbers(tmp_path):
    metrics = _file(tmp_path)
    metrics.append({"step": np.int64(3), "loss": np.float32(0.5), "speed": 1})
    assert _text(tmp_path).endswith("3,0.5,1\n")
    assert metrics.rows() == [{"step": 3, "loss": 0.5, "speed": 1}]


def test_not_a_number_is_written_and_read(tmp_path):
    metrics = _file(tmp_path)
    metrics.append({"step": 1, "loss": math.nan})
    assert math.isnan(metrics.rows()[0]["loss"])


def test_cut_back_drops_the_rows_after_the_checkpoint(tmp_path):
    metrics = _file(tmp_path)
    for step in (50, 97, 100, 150):
        metrics.append({"step": step, "loss": float(step)})
    metrics.cut_back(97)
    metrics.append({"step": 100, "loss": 1.5})
    steps = [(row["step"], row["loss"]) for row in metrics.rows()]
    assert steps == [(50, 50.0), (97, 97.0), (100, 1.5)]
    assert os.listdir(tmp_path) == ["metrics.csv"]


def test_cut_back_to_zero_leaves_the_header(tmp_path):
    metrics = _file(tmp_path)
    metrics.append({"step": 50, "loss": 1.0})
    metrics.cut_back(0)
    assert _text(tmp_path) == "step,loss,speed\n"
    metrics.append({"step": 7})
    assert [row["step"] for row in metrics.rows()] == [7]


@pytest.mark.parametrize("torn", ["100,0.", "100,0.25,8", "1", "100,0.5,3,4"])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss,speed\n50,0.5,83\n" + torn)
    metrics = _file(tmp_path)
    assert _text(tmp_path) == "step,loss,speed\n50,0.5,83\n"
    metrics.append({"step": 100, "loss": 0.25})
    assert [row["step"] for row in metrics.rows()] == [50, 100]


@pytest.mark.parametrize("torn", ["", "step,lo"])
def test_a_torn_header_is_written_again(tmp_path, torn):
    (tmp_path / "metrics.csv").write_text(torn)
    _file(tmp_path).append({"step": 1})
    assert _text(tmp_path) == "step,loss,speed\n1,,\n"


@pytest.mark.parametrize(
    "line", ["60,x,1", "60,0.1", "", "\0\0", "40,0.1,1", "é,1,1", "-6,0.1,1"]
)
def test_a_damaged_line_is_left_out_and_its_file_kept(tmp_path, capsys, line):
    path = tmp_path / "metrics.csv"
    text = f"step,loss,speed\n50,0.5,83\n{line}\n70,0.1,1\n"
    path.write_text(text)
    assert [row["step"] for row in metrics_csv.read(path)] == [50, 70]
    assert f"{path}: line 3 of 4 cannot be read" in capsys.readouterr().out
    assert path.read_text() == text
    metrics = _file(tmp_path)
    assert _text(tmp_path) == "step,loss,speed\n50,0.5,83\n70,0.1,1\n"
    kept = tmp_path / "metrics.csv.damaged-1"
    assert kept.read_text() == text
    assert str(kept) in capsys.readouterr().out
    metrics.append({"step": 80})
    assert [row["step"] for row in metrics.rows()] == [50, 70, 80]


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("wrong", [0, 9797])
def test_a_wrong_step_costs_no_other_row(tmp_path, place, wrong):
    steps = [10, 20, 30, 40, 50, 60]
    lines = [
        f"{wrong if n == place else x},0.5,1\n" for n, x in enumerate(steps)
    ]
    path = tmp_path / "metrics.csv"
    path.write_text("".join(["step,loss,speed\n", *lines]))
    read = [row["step"] for row in metrics_csv.read(path)]
    others = steps[:place] + steps[place + 1 :]
    assert [step for step in read if step != wrong] == others


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_of_another_system_are_no_damage(tmp_path, capsys, mark):
    path = tmp_path / "metrics.csv"
    path.write_bytes(mark + b"step,loss,speed\r\n50,0.5,83\r\n60,0.25,")
    assert metrics_csv.read(path) == [{"step": 50, "loss": 0.5, "speed": 83}]
    metrics = _file(tmp_path)
    metrics.append({"step": 60, "loss": 0.25})
    assert _text(tmp_path) == "step,loss,speed\n50,0.5,83\n60,0.25,\n"
    assert capsys.readouterr().out == ""
    assert os.listdir(tmp_path) == ["metrics.csv"]


@pytest.mark.parametrize(
    "header", ["stép,loss", "\0\0\0", "st\x07p", ",,", "7,8"]
)
def test_a_damaged_header_is_refused_with_the_way_back(tmp_path, header):
    path = tmp_path / "metrics.csv"
    path.write_text(f"{header}\n50,0.5\n")
    for reader in (lambda: metrics_csv.read(path), lambda: _file(tmp_path)):
        with pytest.raises(ValueError, match=r"metrics.csv has a damaged head"):
            reader()
    path.rename(tmp_path / "kept.csv")  # as the message says
    _file(tmp_path).append({"step": 60})


def test_rows_have_their_time_and_older_ones_none(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n50,0.5\n")
    assert metrics_csv.last_time(metrics_csv.read(path)) is None
    metrics = _file(tmp_path, ("loss", metrics_csv.TIME))
    start = int(time.time())
    metrics.append({"step": 60, "loss": 0.25})
    os.utime(path, (1, 1))
    rows = metrics_csv.read(path)
    assert rows[0]["time"] is None
    assert start <= metrics_csv.last_time(rows) <= time.time()


def test_another_header_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,accuracy\n")
    with pytest.raises(ValueError, match="Received 'step,accuracy'"):
        _file(tmp_path)


def test_a_file_of_an_earlier_version_gets_the_newer_columns(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss,speed\n50,0.5,83\n97,0.25,\n100,0.")
    metrics = _file(tmp_path, ("loss", "rank", "speed"))
    assert _text(tmp_path) == "step,loss,rank,speed\n50,0.5,,83\n97,0.25,,\n"
    metrics.append({"step": 97, "rank": 7.5})
    assert metrics.rows() == [
        {"step": 50, "loss": 0.5, "rank": None, "speed": 83},
        {"step": 97, "loss": 0.25, "rank": 7.5, "speed": None},
    ]


def test_a_run_of_the_version_before_can_go_on(tmp_path):
    older = (
        "step,epoch,steps,loss,instance_top1,learning_rate,images_per_second,"
        "input_wait_share,unreadable,epoch_loss,knn_backbone,knn_projection"
    )
    row = "4,1,4,2.5,0.25,0.06,30.0,0.1,0,2.5,0.5,0.75"
    (tmp_path / "metrics.csv").write_text(f"{older}\n{row}\n")
    metrics = metrics_csv.MetricsFile(tmp_path / "metrics.csv")
    metrics.append({"step": 8, "knn_backbone": 0.625, "effective_rank": 9.5})
    first, second = metrics.rows()
    assert (first["knn_projection"], first["effective_rank"]) == (0.75, None)
    assert (second["knn_backbone"], second["effective_rank"]) == (0.625, 9.5)


def test_reading_leaves_the_file_as_it_is(tmp_path):
    path = tmp_path / "metrics.csv"
    text = "step,accuracy\n50,0.5\n60,\n70,0."
    path.write_text(text)
    assert metrics_csv.read(path) == [
        {"step": 50, "accuracy": 0.5},
        {"step": 60, "accuracy": None},
    ]
    assert path.read_text() == text


def test_an_unknown_column_is_refused(tmp_path):
    with pytest.raises(ValueError, match="columns lr; known: step, loss"):
        _file(tmp_path).append({"step": 1, "lr": 0.1})


def test_a_step_before_the_last_row_is_refused(tmp_path):
    _file(tmp_path).append({"step": 50})
    with pytest.raises(ValueError, match="step 49 after step 50"):
        _file(tmp_path).append({"step": 49})


def test_a_second_row_of_the_last_step_adds_to_it(tmp_path):
    metrics = _file(tmp_path)
    metrics.append({"step": 1, "loss": 9.0})
    metrics.append({"step": 2, "loss": 8.0})
    metrics.append({"step": 2, "speed": 3.0})
    metrics.append({"step": 3, "loss": 7.0})
    assert _text(tmp_path).splitlines()[1:] == ["1,9.0,", "2,8.0,3.0", "3,7.0,"]
