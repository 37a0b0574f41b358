"""--config=auto by the commands: what is chosen, kept, and kept again."""

import io
import json
import re
import sys

import numpy as np
import pytest

from moco_tf import config as configs
from moco_tf import cores, counting
from moco_tf.cli import main as cli
from moco_tf.data import sources
from moco_tf.doctor import devices, rules, scan
from moco_tf.models import encoder
from moco_tf.training import gpus
from tests import shallow
from tests.doctor import photographs, small_backbone


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
    """Seventy photographs with a short side of 72 pixels."""
    return photographs.write(tmp_path_factory.mktemp("photos"), 70)


@pytest.fixture(autouse=True)
def _small(monkeypatch, request):
    if "network" in request.node.name:
        return
    monkeypatch.setattr(encoder, "build_backbone", small_backbone.build)


def run(*words):
    return cli.run([*words, "--devices=cpu"])


def test_the_doctor_chooses_and_is_content_with_it(folder, tmp_path, capsys):
    source, workdir = f"--config.data.source=folder:{folder}", tmp_path / "run"
    words = ["doctor", source, "--trial_steps=1", f"--workdir={workdir}"]
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert "Suggested" not in said
    assert "Chosen for 70 images, short side 72 px (median)" in said
    preset = re.search(r"kept as --config=(\S+)", said)[1]
    config = configs.load(preset)
    assert config.data.source == f"folder:{folder}"
    assert config.data.image_size == 64 and config.train.batch_size == 16
    assert "s a step." in (workdir / "preset.py").read_text()
    # The file is as good to it as the choice was.
    table = tmp_path / "table.json"
    words = ["doctor", f"--config={preset}", "--trial_steps=0"]
    assert run(*words, f"--json={table}") == 0
    rows = json.loads(table.read_text())
    assert rows["overrides"] == {} and rows["verdict"] == "ok"


def test_all_rows_are_of_the_length_that_was_chosen(
    folder, tmp_path, monkeypatch
):
    """An hour of steps of 5 s, where more were looked at before the trial."""
    trial = devices.Trial(5.0, 0.0, 1.0, 1, None)
    monkeypatch.setattr(devices, "run_trial", lambda *_, done: trial)
    monkeypatch.setattr(rules, "_QUICK", 0)  # images that it sees all the same
    path = tmp_path / "table.json"
    words = ["doctor", f"--config.data.source=folder:{folder}"]
    assert run(*words, f"--json={path}") == 0
    rows = json.loads(path.read_text())["checks"]
    said = {row["check"]: row["finding"] for row in rows}
    assert said["length"].startswith("720 steps in 180 epochs")
    assert "1 h 0 min for 720 steps" in said["time"]


def test_what_the_doctor_suggests_leaves_it_content(folder, tmp_path, capsys):
    words = ["doctor", "--config=moco_v2_imagenet", "--trial_steps=1"]
    words.append(f"--config.data.source=folder:{folder}")
    assert run(*words) == 1  # a batch of 256 from 70 images
    said = capsys.readouterr().out.partition("Suggested:")[2]
    flags = said.replace("\\", " ").split()
    assert "--config.train.batch_size=16" in flags
    path = tmp_path / "table.json"
    assert run(*words, *flags, f"--json={path}") == 0
    assert json.loads(path.read_text())["overrides"] == {}
    assert "Suggested" not in capsys.readouterr().out


def test_a_run_keeps_what_was_chosen(folder, tmp_path, capsys, monkeypatch):
    workdir = tmp_path / "run"
    words = ["pretrain", f"--workdir={workdir}", "--cluster=none"]
    words += ["--config.log.tensorboard=false", "--config.train.epochs=8"]
    words.append(f"--config.data.source=folder:{folder}")
    assert run(*words, "--config.train.max_steps=2") == 0
    said = capsys.readouterr().out
    assert "train.batch_size" in said and "16: a tenth of 70 images" in said
    assert (workdir / "preset.py").is_file()
    first = json.loads((workdir / "config.json").read_text())
    assert first["chosen"] is True

    def refuse(*_, **__):
        raise AssertionError("chosen again")

    monkeypatch.setattr(devices, "run_trial", refuse)
    photographs.write(folder / "more", 1, first=900)  # would count
    assert run(*words, "--config.train.max_steps=3") == 0
    said = capsys.readouterr().out
    assert "was chosen at its first start (preset.py)" in said
    (folder / "more" / "0900.jpg").unlink()
    second = json.loads((workdir / "config.json").read_text())
    assert second["chosen"] is True
    assert second["config"]["train"].pop("max_steps") == 3
    assert first["config"]["train"].pop("max_steps") == 2
    assert second["config"]["train"] == first["config"]["train"]


def test_a_trial_without_room_is_repeated_for_less(folder, capsys, monkeypatch):
    import tensorflow as tf

    from moco_tf.doctor import auto

    sizes = []

    def trial(config, *_, **__):
        sizes.append(config.train.micro_batches)
        if len(sizes) < 3:
            raise tf.errors.ResourceExhaustedError(None, None, "none")
        return devices.Trial(0.1, 0.0, 1.0, 5, None)

    monkeypatch.setattr(devices, "run_trial", trial)
    monkeypatch.setattr(auto.resources, "free_here", lambda: 10**9)
    given = {"data.source": f"folder:{folder}"}
    auto.start(given, tf.distribute.get_strategy())
    assert len(sizes) == 3
    assert capsys.readouterr().out.count("smaller ones are tried") == 2


@pytest.mark.parametrize(
    "words, message",
    [
        (["pretrain", "--workdir=x"], "config.data.source must name"),
        (
            ["pretrain", "--workdir=x", "--config.data.source=folder:x"]
            + ["--config.train.epoks=3"],
            "no field config.train.epoks",
        ),
        (
            ["pretrain", "--workdir=x", "--config.data.source=folder:x"]
            + ["--workers=a:1,b:1", "--worker_index=0"],
            "--config=auto is for one process",
        ),
    ],
)
def test_what_cannot_be_chosen_is_refused_at_once(words, message, capsys):
    assert cli.run(words) == 2
    assert message in capsys.readouterr().err


def test_a_sample_is_of_all_of_a_source():
    pixels = np.zeros([600, 8, 8, 3], np.uint8)
    source = sources.ArraySource(pixels, None, None, "set")
    figures = scan.sample(source, 2, most=50)
    assert len(figures.columns["height"]) == 50
    assert set(figures.columns["width"]) == {8}


@pytest.mark.parametrize(
    "kind, half",
    [(None, ""), ((6, 1), ""), ((7, 5), "float16"), ((8, 0), "bfloat16")],
)
def test_sixteen_bits_are_those_of_the_tensor_cores(kind, half, monkeypatch):
    monkeypatch.setattr(gpus, "oldest_kind", lambda: kind)
    assert gpus.half_precision() == (f"mixed_{half}" if half else "")


def test_cores_say_whether_they_multiply_bfloat16(tmp_path):
    assert cores.multiply_bfloat16(tmp_path) is False
    (tmp_path / "proc").mkdir()
    for flags, known in (("avx512f", False), ("fma amx_bf16 avx", True)):
        (tmp_path / "proc/cpuinfo").write_text(f"flags\t: {flags}\n")
        assert cores.multiply_bfloat16(tmp_path) is known


def test_images_of_which_none_can_be_read_are_rows_of_the_table(
    tmp_path, capsys
):
    folder, path = tmp_path / "photos", tmp_path / "table.json"
    folder.mkdir()
    for number in range(140):
        (folder / f"{number}.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    words = ["--config=quickstart", f"--config.data.source=folder:{folder}"]
    words += ["--trial_steps=0", "--prove=never", f"--json={path}"]
    assert run("doctor", *words) == 1
    rows = json.loads(path.read_text())["checks"]
    assert any("unreadable" in json.dumps(row) for row in rows)
    assert run("pretrain", *words[1:2], f"--workdir={tmp_path}/run") == 1
    assert "at least one image that can be read" in capsys.readouterr().err


def test_a_workdir_that_cannot_be_is_a_row_of_the_table(folder, tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "table.json"
    words = ["--config=quickstart", f"--config.data.source=folder:{folder}"]
    words += [f"--workdir={tmp_path}/file/run", f"--json={path}"]
    words += ["--trial_steps=0", "--prove=never"]
    assert run("doctor", *words) == 1
    assert "cannot be written to" in path.read_text()


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self):
        return True


def test_one_bar_counts_the_scan_and_the_trial(folder, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(counting, "_PATIENCE", 0.01)  # a quick scan is shown
    words = ["--config=quickstart", f"--config.data.source=folder:{folder}"]
    words += ["--config.train.batch_size=16", "--config.moco.queue_size=32"]
    words += ["--config.knn.bank=", "--config.knn.query=", "--trial_steps=2"]
    words += ["--config.optimizer.learning_rate=0.0075", "--prove=never"]
    assert run("doctor", *words) == 0
    said = screen.getvalue()
    # 70 images, and 3 + 2 steps of 16.
    totals = set(re.findall(r"\d+/(\d+) \[", said))
    assert totals == {"150"}
    assert "70 images: " in said and "2 steps of the run itself: " in said
    assert "examining" not in said


def test_weights_to_start_from_bring_their_network(tmp_path, capsys):
    photographs.write(tmp_path / "photos", 64)
    fields = [f"--config.data.source=folder:{tmp_path}/photos"]
    fields += ["--config.log.tensorboard=false", "--cluster=none"]
    fields += ["--config.data.image_size=32"]
    with shallow.network((1, 1)):
        words = [*fields, "--config=moco_cifar10", "--config.model.width=0.125"]
        words += ["--config.model.bn_groups=2", "--config.train.batch_size=16"]
        words += ["--config.moco.queue_size=32", "--config.train.max_steps=1"]
        assert run("pretrain", f"--workdir={tmp_path}/first", *words) == 0
        capsys.readouterr()
        words = [*fields, f"--config.model.init={tmp_path}/first"]
        words += ["--config.train.epochs=1", "--config.train.max_steps=1"]
        assert run("pretrain", f"--workdir={tmp_path}/run", *words) == 0
    said = capsys.readouterr().out
    assert "has it: model.backbone=resnet18, model.width=0.125" in said
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["config"]["model"]["stem"] == "cifar"
