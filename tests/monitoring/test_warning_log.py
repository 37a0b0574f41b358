"""warnings.csv: cut back to a checkpoint, and read with a torn line."""

from moco_tf.monitoring import health, warning_log


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "warnings.csv"
    log = warning_log.WarningLog(path, 0)
    log.add(0, [health.Notice("large-queue", 'häufig, "so"\nweiter.')])
    log.add(30, [health.Notice("collapse", "b.")])
    log.add(40, [])
    assert [row["step"] for row in warning_log.read(path)] == [0, 30]
    again = warning_log.WarningLog(path, 20)
    assert again.names == ["large-queue"]
    assert warning_log.read(path) == [
        {"step": 0, "name": "large-queue", "text": 'häufig, "so"\nweiter.'}
    ]


def test_a_torn_line_is_left_out(tmp_path):
    path = tmp_path / "warnings.csv"
    warning_log.WarningLog(path, 0).add(5, [health.Notice("collapse", "b.")])
    with path.open("a") as file:
        file.write("7,inp")
    assert [row["name"] for row in warning_log.read(path)] == ["collapse"]
    assert warning_log.read(tmp_path / "none.csv") == []
