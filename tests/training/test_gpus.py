"""A machine with GPUs that TensorFlow cannot use, made of files and fakes."""

import pathlib
import re
from importlib import metadata

import pytest
import tensorflow as tf

from moco_tf import lane
from moco_tf.training import distribution, gpus

ROOT = pathlib.Path(__file__).resolve().parents[2]
VERSION = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat\n"


def gpu(number):
    return tf.config.PhysicalDevice(f"/physical_device:GPU:{number}", "GPU")


@pytest.fixture(name="listed")
def _listed(monkeypatch):
    """A function that lets TensorFlow list GPUs of such capabilities."""

    def listed(*capabilities):
        devices = [gpu(number) for number in range(len(capabilities))]
        details = {
            one.name: {"device_name": f"G{kind}", "compute_capability": kind}
            for one, kind in zip(devices, capabilities, strict=True)
        }
        monkeypatch.setattr(
            tf.config, "list_physical_devices", lambda kind=None: devices
        )
        monkeypatch.setattr(
            tf.config.experimental,
            "get_device_details",
            lambda one: details[one.name],
        )

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    listed()
    return listed


@pytest.fixture(name="machine")
def _machine(tmp_path, monkeypatch, listed):
    """The root of a machine with a driver and a GPU, and no nvidia-smi."""
    folder = tmp_path / "proc/driver/nvidia"
    folder.mkdir(parents=True)
    (folder / "version").write_text(VERSION)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return tmp_path


def smi(machine, text):
    """Puts an nvidia-smi there that does what a shell text says."""
    path = machine / "bin/nvidia-smi"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_without_a_driver_there_is_no_fault(tmp_path, listed):
    assert gpus.examine(tmp_path) == ([], "")


def _wanted(name):
    """What TensorFlow's extra asks of a package: "==12.2.5.6", "<13,>=12.5"."""
    (line,) = [
        line
        for line in metadata.requires("tensorflow")
        if "and-cuda" in line and re.match(name + r"\W", line)
    ]
    return re.sub("[ ()]", "", line.partition(";")[0].removeprefix(name))


def test_an_environment_without_cuda_is_named_with_what_lacks(machine):
    fault = gpus.examine(machine).fault
    assert "\n" not in fault
    assert "the NVIDIA driver 535.104.05" in fault
    wanted = _wanted("nvidia-cublas-cu12").removeprefix("==")
    assert f"nvidia-cublas-cu12 {wanted} is not installed" in fault
    assert "and 10 more" in fault  # 12 in all
    assert "launch/quickstart.sh --gpu" in fault


def test_a_wheel_of_another_version_is_named(machine, monkeypatch):
    lock = (ROOT / f"{lane.LOCK}-gpu.txt").read_text()
    versions = dict(re.findall(r"^([\w-]+)==([\d.]+)", lock, re.M))
    monkeypatch.setattr(gpus.metadata, "version", versions.__getitem__)
    assert gpus.lacking_wheels() == []
    wanted = _wanted("nvidia-cudnn-cu12").removeprefix("==")
    for other in ("9.1", "10.0"):  # too old or too new, in both lanes
        versions["nvidia-cudnn-cu12"] = other
        assert gpus.lacking_wheels() == [
            f"nvidia-cudnn-cu12 is {other} instead of {wanted}"
        ]
    assert f"is {other} instead of {wanted}" in gpus.examine(machine).fault


def test_with_all_wheels_it_is_the_driver(machine, monkeypatch):
    monkeypatch.setattr(gpus, "lacking_wheels", lambda: [])
    assert "a driver of 525.60.13 or newer" in gpus.examine(machine).fault


def test_a_driver_that_does_not_answer_is_named(machine):
    smi(machine, "echo Failed to initialize NVML: version mismatch; exit 18")
    fault = gpus.examine(machine).fault
    assert "nvidia-smi says: Failed to initialize NVML" in fault


def test_a_job_that_was_given_no_gpu_has_no_fault(machine, monkeypatch):
    smi(machine, "echo No devices were found; exit 6")
    assert gpus.examine(machine).fault == ""
    smi(machine, "echo NVIDIA A100")
    assert gpus.examine(machine).fault
    for hidden in ("", "-1"):  # by the user
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert gpus.examine(machine).fault == ""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (machine / "dev/nvidia0").unlink()  # a container
    assert gpus.examine(machine).fault == ""


@pytest.mark.parametrize(
    "kind", [lane.OLDEST_GPU, (7, 0), (8, 0), (8, 9), (9, 0)]
)
def test_gpus_up_to_hopper_are_usable(machine, listed, kind):
    listed(kind)
    assert gpus.examine(machine) == ([gpu(0)], "")


@pytest.mark.parametrize("kind", [(3, 7), (10, 0), (12, 0)])
def test_older_and_newer_gpus_are_not(machine, listed, kind):
    listed(kind)
    usable, fault = gpus.examine(machine)
    assert usable == []
    assert f"compute capability {kind[0]}.{kind[1]})" in fault
    assert fault.endswith("Pass --devices=cpu.")


def test_of_unlike_gpus_those_that_work_are_named(listed, monkeypatch):
    listed((12, 0), (8, 0), (9, 0))
    usable, fault = gpus.examine()
    assert usable == [gpu(1), gpu(2)]
    assert "CUDA_VISIBLE_DEVICES=1,2," in fault
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,GPU-8a")
    assert "CUDA_VISIBLE_DEVICES=5,GPU-8a," in gpus.examine().fault


def test_the_oldest_gpu_of_this_process_counts(listed, monkeypatch):
    listed((5, 2), (9, 0), (8, 6))
    visible = tf.config.list_physical_devices("GPU")[1:]
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda _: visible)
    assert gpus.oldest_kind() == (8, 6)
    assert gpus.take_tf32()
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda _: [])
    assert gpus.oldest_kind() is None
    assert not gpus.take_tf32()


FOUR = """case "$*" in *memory.free*)
echo 0, GPU-0a11, G, 1
echo 1, GPU-1b22, G, 500
echo 2, GPU-2c33, G, 400
echo 3, GPU-2d44, {other}, 300
esac"""


@pytest.fixture(name="visible")
def _visible(monkeypatch):
    """A function that lets this process have so many GPUs, of a name."""

    def visible(count, name="G"):
        chosen = [gpu(number) for number in range(count)]
        monkeypatch.setattr(
            tf.config, "get_visible_devices", lambda kind: chosen
        )
        monkeypatch.setattr(gpus, "_details", lambda one: (name, (8, 0)))
        return chosen

    return visible


def test_free_memory_is_that_of_the_gpus_of_this_process(
    machine, monkeypatch, visible
):
    visible(2)
    assert gpus.free_bytes() is None  # no nvidia-smi
    smi(machine, FOUR.format(other="G"))
    assert gpus.free_bytes() == 2**20  # another user fills GPU 0
    for names, free in (
        ("2,3,1", 300),
        ("1, 2", 400),
        ("GPU-1b22,GPU-2c", 400),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
        assert gpus.free_bytes() == free * 2**20
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-7,MIG-8")
    visible(2, "G MIG 1g.10gb")
    assert gpus.free_bytes() is None  # it lists no parts of a GPU


def test_where_gpus_differ_cuda_counts_otherwise_than_nvidia_smi(
    machine, monkeypatch, visible
):
    smi(machine, FOUR.format(other="H"))
    chosen = visible(1, "H")
    assert gpus.free_bytes() == 300 * 2**20  # the fastest is CUDA's first
    assert gpus.identities(chosen) == []
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert gpus.free_bytes() == 400 * 2**20
    assert gpus.identities(chosen) == ["GPU-2c33"]


def test_gpus_are_known_by_their_uuid_and_parts_by_theirs(
    machine, monkeypatch, visible
):
    chosen = visible(2)
    assert gpus.identities(chosen) == []  # no nvidia-smi
    smi(machine, FOUR.format(other="G"))
    assert gpus.identities([]) == []
    assert gpus.identities(chosen) == ["GPU-0a11", "GPU-1b22"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-2d44,0")
    assert gpus.identities(chosen) == ["GPU-2d44", "GPU-0a11"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-7,MIG-8")
    assert gpus.identities(chosen) == ["MIG-7", "MIG-8"]


@pytest.fixture(name="fault")
def _fault(monkeypatch):
    """Lets one GPU of two be out of use."""
    seen = gpus.Gpus([gpu(1)], "GPU 0 is new. Pass --devices=cpu.")
    monkeypatch.setattr(gpus, "examine", lambda: seen)


def test_gpu_refuses_what_auto_does_without_and_says(fault, capsys):
    assert distribution.find_devices("auto", say=True) == ("gpu", 1, [gpu(1)])
    said = capsys.readouterr().out
    assert said.startswith("Warning: --devices=auto takes 1 GPU(s). GPU 0 is")
    assert distribution.find_devices("gpu:1") == ("gpu", 1, [gpu(1)])
    for devices in ("gpu", "gpu:2"):
        with pytest.raises(ValueError, match=f"--devices={devices}: GPU 0 is"):
            distribution.find_devices(devices)


def test_auto_says_that_it_takes_the_cpu(monkeypatch, capsys):
    seen = gpus.Gpus([], "no CUDA. Pass --devices=cpu.")
    monkeypatch.setattr(gpus, "examine", lambda: seen)
    assert distribution.find_devices("auto", say=True) == ("cpu", 1, [])
    assert "auto takes the CPU. no CUDA" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--devices=gpu: no CUDA"):
        distribution.find_devices("gpu")
    # Who wants the CPU hears nothing.
    assert distribution.find_devices("cpu:2", say=True) == ("cpu", 2, [])
    assert capsys.readouterr().out == ""
