"""benchmark: counts by hand, a verdict for every case, figures of a run."""

import functools
import json

import pytest
import tensorflow as tf

from moco_tf import benchmark
from moco_tf.cli import main as cli
from tests import shallow, small_run

_network = shallow.fixture()


def _graph(function, *shapes):
    specs = [tf.TensorSpec(shape) for shape in shapes]
    return tf.function(function).get_concrete_function(*specs).graph


def test_operations_of_a_convolution_and_its_gradients():
    def step(images, kernel):
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            made = tf.nn.conv2d(images, kernel, 2, "SAME")
        return tape.gradient(made, [images, kernel])

    graph = _graph(step, [4, 8, 6, 3], [3, 3, 3, 5])
    # 4 x 4 x 3 places of 5 channels, 27 products each, each with a sum;
    # forward, to the images, to the kernel. The gradient needs no forward
    # pass, but the graph holds it.
    assert benchmark.count_flops(graph) == 3 * 2 * (4 * 4 * 3 * 5) * 27


@pytest.mark.parametrize("transposed", [False, True])
def test_operations_of_a_matrix_product(transposed):
    shapes = ([7, 2], [7, 5]) if transposed else ([2, 7], [7, 5])
    graph = _graph(
        lambda a, b: tf.matmul(a, b, transpose_a=transposed), *shapes
    )
    assert benchmark.count_flops(graph) == 2 * 2 * 5 * 7


def test_unknown_shapes_are_refused():
    graph = _graph(tf.matmul, [None, 7], [7, 5])
    with pytest.raises(ValueError, match="where all shapes are known"):
        benchmark.count_flops(graph)


@pytest.mark.parametrize(
    ("rates", "shared", "fields", "expected"),
    [
        ((100, 210), True, {}, "input-bound: 2.1x more input would be used"),
        ((100, 210), True, {}, "try a cache (moco-tf prepare) or"),
        ((100, 210), False, {}, "--config.data.augment_on=device"),
        ((100, 105), True, {}, "balanced"),
        ((300, 100), True, {}, "step-bound: the input is 3.0x faster"),
        ((300, 100), True, {}, "precision=mixed_bfloat16"),
        (
            (300, 100),
            True,
            {"train__precision": "mixed_bfloat16", "train__micro_batches": 2},
            "try fewer train.micro_batches or more devices",
        ),
        ((None, 50), True, {}, "step alone: 50 images/s; give a source by"),
    ],
)
def test_the_verdict_names_what_waits(rates, shared, fields, expected):
    config = small_run.make_config("pictures", **fields)
    assert expected in benchmark.verdict(config, *rates, shared)


def test_no_remedy_is_named_that_is_in_use():
    config = small_run.make_config(
        "x", data__source="prepared:x", data__threads=0
    )
    assert benchmark.verdict(config, 10, 100, True).endswith("try more cores")


def test_figures_of_a_small_run(tmp_path, capsys, monkeypatch):
    # One round: each opens two streams anew.
    one_round = functools.partial(benchmark.benchmark, rounds=1)
    monkeypatch.setattr(benchmark, "benchmark", one_round)
    path = tmp_path / "figures.json"
    images = small_run.write_images(tmp_path / "images")
    fields = small_run.FIELDS
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    status = cli.run(
        [
            "benchmark",
            "--config=moco_cifar10",
            "--devices=cpu",
            "--steps=1",
            f"--json={path}",
            f"--config.data.source=folder:{images}",
            *flags,
        ]
    )
    printed = capsys.readouterr().out
    assert status == 0
    found = json.loads(path.read_text())
    assert found["verdict"] in printed
    assert found["input_bytes_per_image"] == 2 * 3 * 16 * 16
    for name in ("input", "step", "both"):
        assert found[f"{name}_images_per_second"] > 0
    assert list(found["stages_ms_per_image"]) == [
        "read and decode",
        "two crops",
        "grey",
        "jitter",
        "blur",
    ]
    # The first convolution of a ResNet of width 1/8: 8 channels of 16 x 16
    # places, 27 products each; the whole is more than both encoders' of it.
    first = 2 * 16 * 16 * 8 * 27
    assert 4 * first < found["flops_per_image"] < 1e9


def test_without_a_source_the_step_alone_is_measured(tmp_path, capsys):
    config = small_run.make_config(tmp_path)
    config.data.source = ""
    found = benchmark.benchmark(config, tf.distribute.get_strategy(), 1, 1)
    assert "input_images_per_second" not in found
    assert "by --config.data.source" in capsys.readouterr().out


def test_no_rounds_are_refused(tmp_path):
    config = small_run.make_config(tmp_path)
    with pytest.raises(ValueError, match="steps=1, rounds=0"):
        benchmark.benchmark(config, tf.distribute.get_strategy(), 1, 0)


def test_what_cannot_be_measured_is_said(tmp_path, capsys):
    flags = ["benchmark", "--config=moco_cifar10", "--devices=cpu"]
    missing = f"--config.data.source=folder:{tmp_path / 'no'}"
    assert cli.run([*flags, missing]) != 0
    assert "no" in capsys.readouterr().err
    assert cli.run([*flags, "--steps=some"]) == 2
    assert "--steps" in capsys.readouterr().err


@pytest.mark.parametrize("at_once", [1, 16])
def test_the_ceiling_is_waited_for_after_so_many_runs(at_once):
    events = []

    class Result:
        def __float__(self):
            events.append("wait")
            return 1.0

    def run():
        events.append("run")
        return Result()

    # Twice within half a second; 4 s in all.
    seconds = iter([0.0, 0.1, 0.2, 0.6, 4.0])
    rate = benchmark.runs_per_second(run, at_once, lambda: next(seconds))
    assert rate == 2 * at_once / 4.0
    round_of_runs = at_once * ["run"] + ["wait"]
    assert events == ["run", "wait", *round_of_runs, *round_of_runs]
