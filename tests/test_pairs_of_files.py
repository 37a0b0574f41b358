"""Two aligned files a sample, from training to the served encoder."""

import types

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import benchmark, pretrain
from moco_tf import config as configs
from moco_tf.data import sources
from moco_tf.evaluation import embeddings, frozen, knn
from moco_tf.reporting import samples
from moco_tf.serving import export
from tests import shallow
from tests.data import pictures

_network = shallow.fixture()
CLASSES, COUNT, SIDE = ("bright", "dark"), 6, 18


def _write(root):
    """Twelve samples of colour and depth; depth is bright in one class."""
    random = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        for number in range(COUNT):
            colour = random.integers(0, 256, [SIDE, SIDE, 3])
            depth = random.integers(0, 60, [SIDE, SIDE]) + 150 * label
            for folder, pixels in (("colour", colour), ("depth", depth)):
                path = root / folder / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = pictures.Image.fromarray(pixels.astype(np.uint8))
                path.write_bytes(pictures.encode(image, "PNG"))
    return f"pairs:{root}/colour,{root}/depth"


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
    """Data, workdir and the judged encoder of a run of four steps."""
    root = tmp_path_factory.mktemp("pairs")
    spec = _write(root)
    config = configs.load("cmc_imagenet").copy_and_resolve_references()
    values = {
        "data.source": spec,
        "data.image_size": 16,
        "model.input": "pair",
        "model.backbone": "resnet18",
        "model.width": 0.0625,
        "model.stem": "cifar",
        "model.dim": 8,
        "model.bn_groups": 2,
        "cmc.negatives": 8,
        "schedule.milestones": (1,),
        "train.batch_size": 4,
        "train.epochs": 2,
        "train.max_steps": 4,
        "knn.bank": spec,
        "knn.query": spec,
        "knn.k": 3,
        "knn.batch_size": 4,
        "log.every_steps": 1,
    }
    config.update_from_flattened_dict(values)
    workdir = root / "run"
    pretrain.pretrain(config, workdir, tf.distribute.get_strategy())
    return root, workdir, frozen.open_frozen(str(workdir))


def test_the_encoder_is_evaluated_on_both_files(run, tmp_path):
    root, _, judged = run
    assert judged.channels == 6
    spec = f"pairs:{root}/colour,{root}/depth"
    accuracies = knn.evaluate(judged, tmp_path, ks=(3,))
    assert set(accuracies.values()) <= {n / 12 for n in range(13)}
    table = embeddings.embed_source(
        judged, spec, tmp_path / "rows.npz", folder=tmp_path
    )
    again = embeddings.load(tmp_path / "rows.npz")
    assert table.rows["backbone"].shape == again.rows["backbone"].shape
    with pytest.raises(ValueError, match="6 channels are needed"):
        embeddings.embed_source(
            judged, f"folder:{root}/colour", tmp_path / "no.npz"
        )


def test_both_files_are_measured_together(run):
    root, _, judged = run
    source = sources.open_source(f"pairs:{root}/colour,{root}/depth", 6)
    assert benchmark.stages(judged.config, source, 1) == {}
    figures = benchmark._figures(
        judged.config,
        types.SimpleNamespace(
            KEY_VIEWS=False,
            variables=[],
            optimizer=types.SimpleNamespace(variables=[]),
        ),
        benchmark.find_machine(tf.distribute.get_strategy()),
        {"step": [1.0]},
    )
    assert figures["input_bytes_per_image"] == 6 * 16 * 16


def test_pictures_show_the_first_file(run):
    root, _, judged = run
    source = sources.open_source(f"pairs:{root}/colour,{root}/depth", 6)
    shown = samples.pairs(judged.config, source, count=2)
    assert [pair.query.shape for pair in shown] == [(16, 16, 3)] * 2
    index = [source.name(number) for number in range(12)].index(shown[0].name)
    image = source.image(source.records(tf.constant([index]))[0])
    np.testing.assert_array_equal(shown[0].image, image[..., :3])


def test_the_export_takes_both_files_by_name(run, tmp_path):
    root, workdir, judged = run
    folder = export.export_run(judged, tmp_path, "both", workdir=str(workdir))
    encoder = tf.saved_model.load(str(folder))
    files = {
        f"{name}_bytes": [
            (root / part / "dark" / f"{number}.png").read_bytes()
            for number in range(3)
        ]
        for name, part in (("image", "colour"), ("second", "depth"))
    }
    small = pictures.encode(pictures.Image.new("L", (9, 9)), "PNG")
    files["second_bytes"][2] = small
    answer = encoder.signatures["serving_default"](
        **{name: tf.constant(rows) for name, rows in files.items()}
    )
    assert answer["valid"].numpy().tolist() == [True, True, False]
    source = sources.open_source(f"pairs:{root}/colour,{root}/depth", 6)
    image = source.image(source.records(tf.constant([COUNT]))[0])
    view = judged.recipe.evaluate(image, 16)
    expected = judged.encode(view[tf.newaxis])["backbone"]
    np.testing.assert_allclose(
        answer["features"][:1], expected, rtol=1e-4, atol=1e-5
    )
    card = (folder / "README.md").read_text()
    assert "trained without labels by CMC (arXiv:1906.05849)" in card
    assert "second_bytes" in card
