"""The file that a user sends: what is in it, and what must not be."""

import getpass
import json
import pathlib
import socket
import types

import pytest
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import lane, plan
from moco_tf.cli import main as cli
from moco_tf.doctor import (
    devices,
    examination,
    exchange,
    reference,
    report,
    table,
)
from moco_tf.models import encoder
from moco_tf.training import distribution, gpus
from tests.doctor import small_backbone

SECRET = "s3cr3t-of-the-lab"


def test_a_text_loses_paths_names_and_addresses(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "node7.lab.org")
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    workers = '{"cluster": {"worker": ["alpha:1", "beta-2:1"]}}'
    monkeypatch.setenv("TF_CONFIG", workers)
    home = pathlib.Path("/home/ada love")
    monkeypatch.setattr(pathlib.Path, "home", lambda: home)
    for text, left in (
        (f"lost {home}/runs, 5 images/s", "lost PATH, 5 images/s"),
        ("folder:/data/x (12 MB)", "folder:PATH (12 MB)"),
        ("~/x: 3/4 of it", "PATH: 3/4 of it"),
        ("'/x/y' of node7.lab.org", "'PATH' of HOST"),
        ("ada at node7, beta-2", "USER at HOST, HOST"),
        ("adam on node71", "adam on node71"),
        ("ipv4:10.0.0.7:2222 closed", "ipv4:ADDRESS closed"),
    ):
        assert report.scrub({"a": [text]}) == {"a": [left]}
    assert report.scrub([1, 2.5, None, True]) == [1, 2.5, None, True]


def test_of_the_environment_only_what_matters_is_taken():
    variables = {
        "NCCL_P2P_DISABLE": "1",
        "WANDB_API_KEY": SECRET,
        "CUDA_VISIBLE_DEVICES": "GPU-8a8a",
        "LD_LIBRARY_PATH": "",
    }
    assert report.environment(variables) == {
        "NCCL_P2P_DISABLE": "1",
        "CUDA_VISIBLE_DEVICES": "is set",
    }


@pytest.mark.parametrize("kind", ["GPU", "CPU"])
def test_the_five_configurations_can_be_trained(kind):
    made = report.standard_configurations(kind)
    assert len(made) == 5
    for config in made.values():
        assert not config.data.source
        for rows, replicas in ((8, 1), (16, 3), (128, 8)):
            taken = report.with_batch(config, rows, replicas)
            taken.data.source = "shapes:train"  # checked, not read
            plan.check(taken, replicas)
            assert taken.train.batch_size == rows * replicas
    names = list(made)
    assert made[names[0]].train.precision == "float32"
    assert not made[names[0]].train.tf32 and made[names[1]].train.tf32
    assert made[names[2]].train.precision == "mixed_bfloat16"
    assert made[names[3]].train.jit_compile


def test_a_smaller_gpu_gets_fewer_images(monkeypatch):
    config = report.standard_configurations("GPU")["moco_v2_imagenet, float32"]
    monkeypatch.setattr(
        report.resources,
        "predict_memory",
        lambda config, *_: report.resources.MemoryParts(
            activations=config.train.batch_size * 10**8
        ),
    )

    monkeypatch.setattr(report.resources, "_network", lambda config: None)

    def rows(gigabytes, replicas=1):
        free = gigabytes * 10**9
        return report.choose_rows(config, replicas, "GPU", free)

    assert rows(40) == 256  # 25.6 GB are below 0.8 of it
    assert rows(24) == 128
    assert rows(1) == 16  # the fewest
    assert report.choose_rows(config, 1, "GPU", None) == 16


def test_a_benchmark_that_fails_is_said_and_the_others_go_on(monkeypatch):
    timed = []

    def measure(config, strategy, steps, rounds):
        timed.append(config.train.precision)
        if config.train.jit_compile:
            raise tf.errors.ResourceExhaustedError(None, None, "too much")
        memory = {"peak_memory_bytes": 9}  # of the proofs before, on a CPU
        return memory | {"step_images_per_second": 7.0, "verdict": "more"}

    monkeypatch.setattr(report.benchmark, "measure", measure)
    strategy = tf.distribute.get_strategy()
    news = list(report.run_benchmarks(strategy, None))
    words, results = news[::2], news[1::2]
    assert words[0] == "timing moco_v2_imagenet, float32, 8 images a replica"
    assert len(timed) == len(words) == len(results) == 5
    assert "too much" in results[3]["failed"]
    assert results[4]["figures"] == {"step_images_per_second": 7.0}
    assert report.describe(results[4]).endswith("small: 7 images/s")
    of_gpu = results[4] | {"small": False}
    of_gpu["figures"] = results[4]["figures"] | {"peak_memory_bytes": 9e9}
    assert report.describe(of_gpu).endswith("7 images/s, 9.0 GB at the peak")


SMI = """#!/bin/sh
case "$*" in
*topo*) printf '\\033[4m\\tGPU0\\tGPU1\\033[0m\\nGPU0\\t X \\tNV12\\n';;
*) echo "NVIDIA A100-SXM4-40GB, 535.104.05, 40960, 400.00, 4, 16, \
Disabled, Enabled, 1410";;
esac
"""


@pytest.fixture(name="written", scope="module")
def _written(tmp_path_factory):
    """The report of the command, of a machine of fakes, as text."""
    folder = tmp_path_factory.mktemp("machine")
    program = folder / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(0o755)
    good = table.Row("reference", f"16 steps, in {folder}/{SECRET}")
    rows = [table.Row("numbers", "alike"), table.Row("resume", "the same bits")]
    figures = {"step_images_per_second": 12.5}
    path = folder / SECRET / "report.json"
    words = ["doctor", "--devices=cpu", f"--report={path}"]
    words += ["--config.train.batch_size=32", "--config.model.bn_groups=1"]
    words.append("--config.moco.queue_size=64")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        patch.setenv("MY_TOKEN", SECRET)
        patch.setenv("TF_GPU_ALLOCATOR", f"{folder}/{SECRET}")
        patch.setattr(reference, "check_reference", lambda: good)
        patch.setattr(devices, "check_small_run", lambda *_: rows)
        patch.setattr(report.benchmark, "measure", lambda *_: dict(figures))
        patch.setattr(encoder, "build_backbone", small_backbone.build)
        assert cli.run(words) == 0
    text = path.read_text()
    assert str(folder) not in text
    return text


def test_the_report_has_what_helps_and_nothing_that_is_private(written):
    value = json.loads(written)
    for private in (SECRET, f"{pathlib.Path.home()}/", socket.gethostname()):
        assert private not in written
    assert not {"MY_TOKEN", "PATH"} & set(value["environment"])
    assert value["environment"]["TF_GPU_ALLOCATOR"] == "PATH"
    assert value["versions"]["tensorflow"] == tf.__version__
    assert value["versions"]["built for cuda_version"]
    assert value["versions"]["lane"] == lane.NAME
    assert len(value["versions"]["moco-tf sources"]) == 12
    card = value["machine"]["gpus"][0]
    assert card["name"] == "NVIDIA A100-SXM4-40GB"
    assert card["driver_version"] == "535.104.05"
    lines = value["machine"]["connections"]
    assert lines == ["\tGPU0\tGPU1", "GPU0\t X \tNV12"]
    verdicts = {row["check"]: row["verdict"] for row in value["checks"]}
    # Not of images, of which none was looked at; nor of the disk.
    assert list(verdicts) == [
        *("configuration", "devices", "reference", "gather", "numbers"),
        *("resume", "memory", "not proved"),
    ]
    assert verdicts["not proved"] == "open"
    assert value["command"]["configuration"] == "moco_v2_imagenet"
    assert value["command"]["fields"]["train.batch_size"] == 32
    assert len(value["benchmarks"]) == 5


def test_the_report_begins_with_its_text(written):
    value = json.loads(written)
    assert list(value)[:3] == ["format", "holds", "text"]
    text = "\n".join(value["text"])
    assert "numbers        ok    alike" in text
    assert "moco_v2_imagenet, float32, 8 a replica, small: 12.5" in text
    assert not value["unfinished"] and "unfinished" not in text
    lacking = text.partition("not proved     open")[2]
    assert "GPUs; steps of the run itself" in lacking


def test_collectives_stand_in_the_report(monkeypatch, tmp_path):
    config = configs.load("quickstart")
    request = examination.Request(config, report=str(tmp_path / "r.json"))
    seconds = iter([0.0, 9.0, *range(100)])
    monkeypatch.setattr(exchange, "_sum", lambda gradients: gradients)
    load = exchange.Load(rows=2, size=4, channels=3, dim=8, weights=1000)
    strategy = tf.distribute.get_strategy()
    figures = exchange.measure(strategy, load, lambda: next(seconds))
    assert figures["images"] == {"bytes": 96, "seconds": 1.0}
    assert figures["gradient"]["bytes"] == 4000
    draft = report.Draft(request, strategy)
    draft.collectives = figures
    draft.save()
    text = json.loads((tmp_path / "r.json").read_text())["text"]
    assert text[0].startswith("collective     images: 96 bytes of a replica in")


def test_states_of_one_version_are_told_apart(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name / "part").mkdir(parents=True)
        (tmp_path / name / "part/a.py").write_text("a = 1\n")
        (tmp_path / name / "a.pyc").write_text(name)  # no source
    digests = [report.digest(tmp_path / name) for name in ("here", "there")]
    assert digests[0] == digests[1] and len(digests[0]) == 12
    (tmp_path / "there/part/a.py").rename(tmp_path / "there/part/b.py")
    assert report.digest(tmp_path / "there") != digests[0]
    (tmp_path / "here/part/a.py").write_text("a = 2\n")
    assert report.digest(tmp_path / "here") != digests[0]


def test_a_name_that_a_line_would_break_is_not_in_the_text(
    tmp_path, monkeypatch
):
    home = pathlib.Path("/home/ada of the lab")
    monkeypatch.setattr(pathlib.Path, "home", lambda: home)
    request = examination.Request(
        configs.load("quickstart"), report=str(tmp_path / "r.json")
    )
    draft = report.Draft(request, tf.distribute.get_strategy())
    for shift in range(40):
        words = f"{'x' * shift} {'y' * 40} {home}/runs is full"
        draft.rows = [table.Row("time", words, table.FAIL, words)]
        draft.save()
        text = (tmp_path / "r.json").read_text()
        assert "ada" not in text and "lab" not in text


def test_a_process_that_is_ended_leaves_what_was_found(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    begun = []

    def end(*_):
        begun.append(json.loads(path.read_text()))
        raise KeyboardInterrupt

    good = table.Row("reference", "16 steps")
    monkeypatch.setattr(reference, "check_reference", lambda: good)
    monkeypatch.setattr(exchange, "load_of", end)
    request = examination.Request(
        configs.load("quickstart"), report=str(path), look=False, prove=True
    )
    with pytest.raises(KeyboardInterrupt):
        examination.examine(request, tf.distribute.get_strategy())
    value = json.loads(path.read_text())
    assert value == begun[0]
    assert value["unfinished"] == "the devices: an exchange of 1 replicas"
    assert value["text"][-1].endswith(value["unfinished"])
    checks = [row["check"] for row in value["checks"]]
    assert checks == ["configuration", "devices", "reference"]
    assert value["versions"]["tensorflow"] == tf.__version__


@pytest.mark.parametrize("replicas", [1, 3])
def test_the_batch_of_a_report_is_one_that_the_devices_hold(replicas):
    source = {"data.source": "shapes:train"}
    config = configs.load("moco_v2_imagenet", source)
    strategy = types.SimpleNamespace(num_replicas_in_sync=replicas)
    taken = report.fitted(config, strategy, 8 * 10**9)
    assert taken.train.batch_size == 8 * replicas
    if replicas == 1:
        assert report.fitted(taken, strategy, 8 * 10**9) is taken


def test_a_machine_without_a_gpu_that_works_writes_why(
    tmp_path, monkeypatch, capsys
):
    fault = f"no CUDA at {tmp_path}/lib. Pass --devices=cpu."
    seen = gpus.Gpus([], fault)
    monkeypatch.setattr(gpus, "examine", lambda: seen)
    path = tmp_path / "why.json"
    assert cli.run(["doctor", "--devices=gpu", f"--report={path}"]) == 1
    assert "no CUDA" in capsys.readouterr().err
    value = json.loads(path.read_text())
    (text,) = value["text"]
    assert text == "--devices=gpu: no CUDA at PATH. Pass --devices=cpu."
    assert value["versions"]["tensorflow"] == tf.__version__
    assert value["machine"]["cores"]


def test_without_a_configuration_only_a_report_is_written(capsys):
    assert cli.run(["doctor", "--devices=cpu"]) == 2
    assert "config.data.source must name the images" in capsys.readouterr().err


def test_a_proof_that_cannot_run_is_a_row(monkeypatch):
    def fail(*_):
        raise tf.errors.InternalError(None, None, "NCCL: invalid usage\nmore")

    monkeypatch.setattr(reference, "check_reference", fail)
    monkeypatch.setattr(exchange, "load_of", fail)
    rows = [table.Row("numbers", ""), table.Row("resume", "")]
    monkeypatch.setattr(devices, "check_small_run", lambda *_: rows)
    request = examination.Request(configs.load("quickstart"))
    guard = examination.watchdog.Guard()
    strategy = tf.distribute.get_strategy()
    findings = examination._prove(request, strategy, guard)
    assert [row.check for row in findings] == [
        *("reference", "gather", "numbers", "resume"),
    ]
    assert findings[1].finding == "failed: NCCL: invalid usage"
    assert table.failures(findings) == ["reference", "gather"]
    assert distribution.kind_of_devices() == "CPU"
