import math
import types

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import cores
from moco_tf.data import sources
from moco_tf.doctor import devices, resources, table
from moco_tf.models import encoder
from tests.doctor import small_backbone

GB = 10**9


def config_of(**fields):
    config = configs.load("quickstart").copy_and_resolve_references()
    values = {key.replace("__", "."): value for key, value in fields.items()}
    config.update_from_flattened_dict(values)
    return config


def parts_of(activations):
    return resources.MemoryParts(
        weights=GB, optimiser=GB, dictionary=GB, activations=activations
    )


def test_memory_is_predicted_from_the_graph():
    config = config_of(
        model__backbone="resnet18",
        model__width=1.0,
        model__head="fc",
        model__dim=128,
        moco__queue_size=1000,
        moco__symmetric=False,
        moco__batch_negatives=False,
        train__batch_size=8,
        data__image_size=64,
    )
    parts = resources.predict_memory(config, 2, 500)
    # torchvision's ResNet-18 has 11,176,512 parameters without its fc and
    # 9,600 moving statistics; a head of 512 x 128 + 128.
    weights = 11_176_512 + 9_600 + 512 * 128 + 128
    assert parts["weights"] == 3 * 4 * weights
    assert parts["optimiser"] == 4 * weights
    # 4 rows on each of 2 replicas, three times their logits.
    assert parts["dictionary"] == 1000 * (128 * 4 + 16) + 3 * 4 * 1000 * 4
    # The first convolution gives 32 x 32 x 64 for each row, as do its
    # BatchNorm and ReLU; all layers give more than these and less than ten.
    stem = 4 * 32 * 32 * 64 * 4
    assert 3 * stem < parts["activations"] < 20 * stem
    assert resources.checkpoint_bytes(parts, config, 500) == (
        3 * 4 * weights + 1000 * (128 * 4 + 16)
    )


def test_half_precision_halves_activations():
    full = resources.predict_memory(config_of(), 1, 500)["activations"]
    config = config_of(train__precision="mixed_bfloat16")
    half = resources.predict_memory(config, 1, 500)["activations"]
    assert 0.5 <= half / full < 0.6  # images and head are float32


@pytest.mark.parametrize(
    "free, verdict", [(13 * GB, table.OK), (11 * GB, table.WARN)]
)
def test_memory_that_suffices(free, verdict):
    row = resources.memory_row(parts_of(7 * GB), config_of(), 1, "GPU", free)
    assert row.verdict == verdict
    assert row.finding.startswith("about 10.0 GB a GPU at the peak")


@pytest.mark.parametrize("kind", ["CPU", "GPU"])
@pytest.mark.parametrize("slow", [False, True])
def test_16_bits_are_no_remedy_where_they_are_slow(monkeypatch, kind, slow):
    monkeypatch.setattr(cores, "lack_kernels_for", lambda name: slow)
    row = resources.memory_row(parts_of(7 * GB), config_of(), 1, kind, GB)
    named = "mixed_bfloat16" in row.remedy
    assert named == (kind == "GPU" or not slow)


def test_memory_that_lacks_fails():
    row = resources.memory_row(
        parts_of(60 * GB), config_of(), 1, "GPU", 14 * GB
    )
    assert row.verdict == table.FAIL
    assert "Lower train.batch_size" in row.remedy


def test_on_a_gpu_cudnn_works_beside_the_largest_layer(monkeypatch):
    parts = resources.MemoryParts(parts_of(64 * GB), largest=GB // 2)
    monkeypatch.delenv("TF_CUDNN_WORKSPACE_LIMIT_IN_MB", raising=False)
    larger = resources.with_workspace(parts)
    # 6 x 6 tiles for 4 x 4 values, of input and output.
    assert larger["workspace"] == 2.25 * GB
    assert larger.total == parts.total + 2.25 * GB
    largest = resources.MemoryParts(parts, largest=8 * GB)
    assert resources.with_workspace(largest)["workspace"] == 2**32
    monkeypatch.setenv("TF_CUDNN_WORKSPACE_LIMIT_IN_MB", "100")
    assert resources.with_workspace(largest)["workspace"] == 100 * 2**20
    row = resources.memory_row(larger, config_of(), 1, "GPU", 142 * GB // 10)
    assert "workspace 2.2 GB" in row.finding


def test_a_micro_batch_at_a_time_needs_less(monkeypatch):
    monkeypatch.setattr(encoder, "build_backbone", small_backbone.build)
    full = resources.predict_memory(config_of(), 1, 500)
    parts = resources.predict_memory(config_of(train__micro_batches=2), 1, 500)
    assert 2 * parts["activations"] == pytest.approx(full["activations"])
    assert parts["dictionary"] == full["dictionary"]


def test_with_recomputing_the_prediction_is_a_bound_and_no_failure():
    config = config_of(model__recompute=True)
    row = resources.memory_row(parts_of(60 * GB), config, 1, "GPU", 14 * GB)
    assert row.verdict == table.WARN
    assert row.finding.startswith("at most 63.0 GB a GPU")


def test_replicas_on_cpus_share_the_memory():
    row = resources.memory_row(parts_of(GB), config_of(), 2, "CPU", 6 * GB)
    assert row.verdict == table.FAIL
    assert row.finding.startswith("about 8.9 GB at the peak")


def test_images_in_memory_count_on_the_host_alone():
    pixels = np.zeros([10, 8, 8, 3], np.uint8)
    source = sources.ArraySource(pixels, None, None, "set")
    assert source.memory == 2 * pixels.nbytes  # NumPy's and TensorFlow's
    for kind, words in (("CPU", "about 7.0 GB at the peak"), ("GPU", "4.0 GB")):
        row = resources.memory_row(
            parts_of(GB), config_of(), 1, kind, 99 * GB, 2 * GB
        )
        assert words in row.finding
        assert ("images 2.0 GB" in row.finding) == (kind == "CPU")
    on = [
        resources.Forecast(500, kind, 1, 1, stored)(config_of())
        for kind in ("CPU", "GPU")
        for stored in (0, GB)
    ]
    assert on[1] - on[0] == GB and on[3] == on[2]


def test_unknown_memory_is_no_verdict():
    row = resources.memory_row(parts_of(GB), config_of(), 1, "GPU", None)
    assert row.verdict == table.OK
    assert "not known" in row.finding


def test_a_container_may_have_less_than_the_system(tmp_path):
    (tmp_path / "proc").mkdir()
    text = "MemTotal: 9 kB\nMemAvailable:    8000000 kB\n"
    (tmp_path / "proc" / "meminfo").write_text(text)
    assert resources.free_on_host(tmp_path) == 8_192_000_000
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1000\n")
    (group / "memory.max").write_text("max\n")
    assert resources.free_on_host(tmp_path) == 8_192_000_000
    (group / "memory.max").write_text("5000\n")
    assert resources.free_on_host(tmp_path) == 4000
    assert resources.free_on_host(tmp_path / "none") is None


@pytest.mark.parametrize(
    "limit, used, line",
    [
        ("memory.max", "memory.current", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ],
)
def test_a_container_gives_back_the_files_in_its_memory(
    tmp_path, limit, used, line
):
    group = tmp_path / "sys" / "fs" / "cgroup"
    (group / limit).parent.mkdir(parents=True)
    (group / limit).write_text("16000\n")
    (group / used).write_text("15900\n")
    assert resources.free_on_host(tmp_path) == 100
    text = f"anon 1900\n{line} 14000\nactive_file 5\n"
    (group / used).with_name("memory.stat").write_text(text)
    assert resources.free_on_host(tmp_path) == 14100


def test_the_limit_of_any_level_of_a_job_counts(tmp_path):
    """As Slurm and systemd make them: below the root of the groups."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 500000000 kB\n")
    step = "system.slice/slurmstepd.scope/job_7/step_0/user/task_0"
    (tmp_path / "proc/self/cgroup").write_text(f"0::/{step}\n")
    group = tmp_path / "sys/fs/cgroup" / step
    group.mkdir(parents=True)
    job = group.parents[2]
    (job / "memory.max").write_text("16000\n")
    (job / "memory.current").write_text("6000\n")
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("6000\n")
    assert resources.free_on_host(tmp_path) == 10_000


@pytest.mark.parametrize(
    "free, verdict",
    [(8 * GB, table.OK), (5 * GB, table.WARN), (3 * GB, table.FAIL)],
)
def test_disk_for_the_checkpoints(free, verdict, tmp_path):
    usage = lambda place: types.SimpleNamespace(free=free)  # noqa: E731
    row = resources.disk_row(tmp_path / "not" / "made", GB, 2, usage)
    assert row.verdict == verdict
    assert row.finding.startswith("4.0 GB for 4 checkpoints of 1.0 GB")
    assert f"free at {tmp_path}" in row.finding


def test_a_workdir_below_a_file_fails(tmp_path):
    (tmp_path / "file").write_text("")
    row = resources.disk_row(tmp_path / "file" / "run", GB, 2)
    assert row.verdict == table.FAIL
    assert "cannot be written" in row.finding


def test_a_trial_times_steps_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(encoder, "build_backbone", small_backbone.build)
    config = config_of(
        model__width=0.125,
        data__image_size=16,
        train__batch_size=8,
        moco__queue_size=16,
    )
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 20, 20, 3), np.uint8)
    source = sources.ArraySource(pixels, np.zeros(20, int), None, "noise")
    seconds = iter(range(0, 1000, 25))  # 75 s before the third step
    trial = devices.run_trial(
        config, source, tf.distribute.get_strategy(), 5, lambda: next(seconds)
    )
    assert trial.steps == 2
    assert trial.seconds == 50  # 100 s at the end
    # Eight random views against as many random keys of length 1.
    assert 0 < trial.loss < 2 / config.moco.temperature + math.log(17)
    assert list(tmp_path.iterdir()) == []


def test_a_trial_becomes_a_time():
    config = config_of(train__epochs=10, train__batch_size=100)
    trial = devices.Trial(0.5, 0.1, 3.0, 20, None)
    row = devices.trial_row(config, 7250, trial)  # 72 steps an epoch
    assert row.verdict == table.OK
    assert row.finding.startswith(
        "6 min for 720 steps of 0.5 s (200 images/s), without kNN and "
        "checkpoints; 10 % of it waiting for input"
    )


def test_waiting_for_input_is_a_warning_and_no_number_a_failure():
    config = config_of()
    waiting = devices.trial_row(
        config, 9999, devices.Trial(0.5, 0.4, 3.0, 20, None)
    )
    assert waiting.verdict == table.WARN
    lost = devices.trial_row(
        config, 9999, devices.Trial(0.5, 0.1, math.nan, 20, None)
    )
    assert lost.verdict == table.FAIL
    assert "nan within 23 steps" in lost.finding


def test_a_step_that_no_memory_holds_is_refused_with_parts_that_fit(
    monkeypatch,
):
    one = tf.distribute.get_strategy()
    config = config_of(
        train__batch_size=256,
        model__bn_groups=8,
        moco__queue_size=512,
        data__image_size=224,
    )
    forecast = resources.Forecast(256, "CPU", 1, 1)
    needed = forecast(config)
    monkeypatch.setattr(resources, "free_on_host", lambda: needed)
    resources.require(config, one)  # close: it may go well
    monkeypatch.setattr(resources, "free_on_host", lambda: None)
    resources.require(config, one)
    monkeypatch.setattr(resources, "free_on_host", lambda: 7 * needed // 10)
    with pytest.raises(ValueError, match="micro_batches=(2|4|8):") as raised:
        resources.require(config, one)
    config.train.micro_batches = int(str(raised.value).split("=")[1][0])
    resources.require(config, one)
    assert resources.fits(forecast(config), 7 * needed // 10)


def test_a_gpu_speaks_for_itself(monkeypatch):
    monkeypatch.setattr(resources, "free_on_host", lambda: 1)
    monkeypatch.setattr(
        resources.distribution, "kind_of_devices", lambda: "GPU"
    )
    resources.require(config_of(), tf.distribute.get_strategy())
