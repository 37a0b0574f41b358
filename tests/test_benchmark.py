"""benchmark: counts by hand, a verdict for every case, figures of a run."""

import functools
import json

import pytest
import tensorflow as tf

from moco_tf import benchmark, input_cost
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


class Scenes:
    """A number of images of one size, black."""

    def __init__(self, count, height, width):
        self.count = count
        with tf.device("CPU:0"):
            self.pixels = tf.zeros([height, width, 3], tf.uint8)

    def __len__(self):
        return self.count

    def records(self, indices):
        return indices

    def image(self, record):
        del record
        return self.pixels


STAGES = {"read and decode": 2.0, "two crops": 1.0, "grey": 1.0}


@pytest.mark.parametrize(
    ("source", "stages", "gigabytes", "expected"),
    [
        # Half of the time is decoding: it is spared.
        (Scenes(1000, 512, 768), STAGES, 1, ("moco-tf prepare", 2.0)),
        # 1.28 million of 256 x 384 x 3 are 377 GB. JPEGs of 320 x 480 have 39 %
        # of the pixels: 61 % of half of the time is spared.
        (
            Scenes(1_280_000, 512, 768),
            STAGES,
            512,
            ("moco-tf prepare --format=jpeg", 1 / (1 - 0.5 * 0.609375)),
        ),
        (Scenes(1_280_000, 512, 768), STAGES, 768, ("moco-tf prepare", 2.0)),
        # As small as in a cache already.
        (Scenes(1_280_000, 320, 320), STAGES, 64, None),
        # Next to nothing is decoding.
        (Scenes(9, 512, 768), STAGES | {"read and decode": 0.2}, 1, None),
        (Scenes(9, 512, 768), STAGES | {"read and decode": -0.1}, 1, None),
        (Scenes(9, 512, 768), {}, 1, None),
    ],
)
def test_a_cache_is_named_where_it_spares_time(
    source, stages, gigabytes, expected
):
    config = small_run.make_config("pictures")
    memory = gigabytes * 10**9
    cache = input_cost.cache_for(config, source, stages, memory)
    if expected is None:
        assert cache is None
    else:
        assert cache.command == expected[0]
        assert cache.gain == pytest.approx(expected[1])
    config.data.source = "prepared:cache"
    assert input_cost.cache_for(config, source, stages, memory) is None


def test_cores_that_gpus_need_are_counted_by_those_that_were_measured():
    figures = input_cost.needs(300.0, 2, 14_000, CACHE)
    assert figures["input_images_per_second_per_core"] == 150.0
    assert figures["input_cores_needed"] == 94  # 93.3
    assert figures["input_cores_needed_with_cache"] == 49  # 93.3 / 1.94 = 48.1
    assert input_cost.describe(figures).splitlines() == [
        "a core          150.0 images/s of input",
        "needed             94 cores for 14,000 images/s; about 49 from a "
        "cache (moco-tf prepare)",
    ]
    figures = input_cost.needs(300.0, 2, 0, CACHE)
    assert input_cost.describe(figures).splitlines()[1:] == [
        "cache             1.9 times the input, about: moco-tf prepare"
    ]
    figures = input_cost.needs(300.0, 4, 0, None)
    assert figures == {"input_images_per_second_per_core": 75.0}
    assert input_cost.describe({}) == ""


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


CPU = benchmark.Machine(cores=8, bfloat16=True)


CACHE = input_cost.Cache("moco-tf prepare", 1.94)


def verdict(*rates, machine=CPU, cache=None, **fields):
    """Of images/s of step, input, both and reported, as many as are given."""
    names = ("step", "input", "both", "reported")
    known = dict(zip(names, rates, strict=False))
    config = small_run.make_config("pictures", **fields)
    return benchmark.verdict(config, known, machine, cache)


@pytest.mark.parametrize(
    ("rates", "fields", "expected"),
    [
        ((210, 100), {}, "input-bound: 2.1x more input would be used"),
        (
            (210, 100),
            {"cache": CACHE},
            "try a cache (moco-tf prepare; about 1.9x) or",
        ),
        ((210, 100), {}, "--config.data.threads=0 or more cores"),
        ((105, 100), {}, "balanced"),
        ((100, 300), {}, "step-bound: the input is 3.0x faster"),
        ((100, 300), {}, "precision=mixed_bfloat16"),
        (
            (100, 300),
            {"train__precision": "mixed_bfloat16", "train__micro_batches": 2},
            "try fewer train.micro_batches or more devices",
        ),
        (
            (100, 300),
            {"train__precision": "mixed_bfloat16", "train__jit_compile": True},
            "try --config.train.jit_compile=false or more devices",
        ),
        ((50,), {}, "step alone: 50 images/s; give a source by"),
    ],
)
def test_the_verdict_names_what_waits(rates, fields, expected):
    assert expected in verdict(*rates, **fields)


def test_no_remedy_is_named_that_is_in_use():
    text = verdict(100, 10, data__source="prepared:x", data__threads=0)
    assert text.endswith("try more cores")


def test_cores_that_do_not_multiply_bfloat16_are_not_asked_to():
    text = verdict(100, 300, machine=benchmark.Machine(cores=8))
    assert text.endswith("try more devices")


def on_gpus(kind, replicas=1, own_launches=False):
    return benchmark.Machine(kind, replicas, 8, own_launches)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ((6, 0), []),  # Pascal multiplies float32 in float32 units alone
        ((7, 0), ["precision=mixed_float16"]),
        ((8, 0), ["precision=mixed_bfloat16", "tf32=true"]),
        ((9, 0), ["precision=mixed_bfloat16", "tf32=true"]),
    ],
)
def test_the_number_format_is_one_that_the_gpu_is_fast_in(kind, expected):
    machine = on_gpus(kind)
    text = verdict(100, 300, 100, 100, machine=machine, model__bn_groups=1)
    words = text.partition("; try ")[2].split(" or ")
    assert words == [
        *(f"--config.train.{name}" for name in expected),
        "--config.train.jit_compile=true",
        "more devices",
    ]


@pytest.mark.parametrize(
    ("replicas", "micro_batches", "expected"),
    [(1, 1, "8 calls a layer"), (2, 2, "2 calls a layer"), (8, 1, "")],
)
def test_xla_is_said_to_spare_calls_of_groups(
    replicas, micro_batches, expected
):
    text = verdict(
        *(100, 300, 100, 100),
        machine=on_gpus((8, 0), replicas),
        model__bn_groups=8,
        train__micro_batches=micro_batches,
    )
    assert "--config.train.jit_compile=true" in text
    assert expected in text
    assert ("a layer" in text) == bool(expected)


def test_xla_is_not_advised_where_it_is_refused():
    fields = {"model__sync_bn": True, "model__bn_groups": 1}
    machine = on_gpus((8, 0), replicas=2)
    assert "jit" not in verdict(1, 3, 1, 1, machine=machine, **fields)


def test_cores_are_counted_for_a_gpu_that_waits():
    fields = {"data__source": "prepared:x", "data__augment_on": "device"}
    machine = on_gpus((8, 0))
    text = verdict(300, 100, 100, 300, machine=machine, **fields)
    # 3 times the input of data.threads=2 takes 6 of the 8 cores.
    assert text.endswith("try --config.data.threads=0")
    fields["data__threads"] = 0
    text = verdict(300, 100, 100, 300, machine=machine, **fields)
    assert text.endswith("try about 24 cores instead of 8")


def test_reports_that_hold_up_a_gpu_are_advised_to_be_rarer():
    # A report costs as much as a step: a hundredth of 100 steps.
    rates, machine = (128, 128, 128, 64), on_gpus((8, 0))
    text = verdict(*rates, machine=machine, log__every_steps=50)
    assert text.endswith("try --config.log.every_steps=100")
    text = verdict(*rates, machine=machine, log__every_steps=100)
    assert text == "balanced: input and step take the same time"


def test_input_that_holds_up_launches_is_named():
    rates = (100, 300, 70, 100)
    name = "TF_GPU_THREAD_MODE=gpu_private in the environment"
    assert verdict(*rates, machine=on_gpus((8, 0))).endswith(f"try {name}")
    rates = (100, 300, 95, 100)
    assert name not in verdict(*rates, machine=on_gpus((8, 0)))
    machine = on_gpus((8, 0), own_launches=True)
    assert name not in verdict(100, 300, 70, 100, machine=machine)


@pytest.mark.parametrize(("read", "waits"), [(0, 1), (1, 6), (4, 2)])
def test_a_step_is_waited_for_as_often_as_its_figures_are_read(read, waits):
    events = []

    class Loss:
        def __float__(self):
            events.append("wait")
            return 1.0

    def train(batches):
        events.append(batches)
        return {"loss": Loss()}

    assert benchmark._train(train, "step", 6, read) > 0
    assert events.count("wait") == waits
    assert events.count("step") == 6
    assert events[-1] == "wait"


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
            "--gpu_rate=12345",
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
    each = found["input_images_per_second_per_core"]
    cores = min(found["cores"], fields["data.threads"])
    assert each * cores == pytest.approx(found["input_images_per_second"])
    assert f"{found['input_cores_needed']} cores for 12,345 images/s" in printed
    # The first convolution of a ResNet of width 1/8: 8 channels of 16 x 16
    # places, 27 products each; the whole is more than both encoders' of it.
    first = 2 * 16 * 16 * 8 * 27
    assert 4 * first < found["flops_per_image"] < 1e9


def test_without_a_source_the_step_alone_is_measured(
    tmp_path, capsys, monkeypatch
):
    # For a GPU also one whose figures are read before the next.
    monkeypatch.setattr(benchmark.gpus, "oldest_kind", lambda: (8, 0))
    config = small_run.make_config(tmp_path)
    config.data.source = ""
    found = benchmark.benchmark(config, tf.distribute.get_strategy(), 1, 1)
    assert "input_images_per_second" not in found
    assert found["step_images_per_second"] > 0
    assert found["reported_images_per_second"] > 0
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
