"""The folder for Hugging Face: read without this package, and by it again."""

import json
import re
import types

import numpy as np
import pytest
import tensorflow as tf
import yaml
from safetensors import numpy as safetensors_numpy

from moco_tf import config as configs
from moco_tf import lane, workdirs
from moco_tf.cli import main as cli
from moco_tf.data import views
from moco_tf.evaluation import frozen
from moco_tf.serving import hub_folder
from moco_tf.training import checkpoints
from moco_tf.weights import importing, safetensors_file
from tests import shallow
from tests.evaluation import small_encoder

_network = shallow.fixture((1, 1, 1, 1))


@pytest.fixture(name="workdir", scope="module")
def _workdir(tmp_path_factory):
    return small_encoder.write(tmp_path_factory.mktemp("run"))


@pytest.fixture(name="encoder", scope="module")
def _encoder(workdir):
    return frozen.open_frozen(workdir)


@pytest.fixture(name="folder", scope="module")
def _folder(workdir):
    words = [f"--workdir={workdir}", f"--output={workdir.parent / 'out'}"]
    words += ["--name=photos", "--licence=CC-BY-4.0", "--format=hf"]
    assert cli.run(["export", *words]) == 0
    return workdir.parent / "out" / "photos-hf" / "1"


def front(folder):
    """The metadata of a model card, as a parser of YAML reads them."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.S)[1])


def read(folder, name):
    return json.loads((folder / name).read_text())


def torchvision_names():
    """Names of a backbone of one block in each of four stages, by hand."""
    layers = ["conv1", "bn1"]
    for stage in (1, 2, 3, 4):
        block = f"layer{stage}.0."
        layers += [block + part for part in ("conv1", "bn1", "conv2", "bn2")]
        if stage > 1:
            layers += [f"{block}downsample.0", f"{block}downsample.1"]
    norm = ("weight", "bias", "running_mean", "running_var")
    norm += ("num_batches_tracked",)
    return {
        f"{layer}.{part}"
        for layer in layers
        for part in (
            norm if re.search(r"bn\d$|downsample\.1$", layer) else ["weight"]
        )
    }


def test_the_folder_holds_its_files_and_nothing_is_left_of_writing(folder):
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors",
        "config.json",
        "preprocessor_config.json",
        "README.md",
        "model_card.json",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_tensors_have_torchvisions_names_and_layout(folder, encoder):
    tensors = safetensors_numpy.load_file(folder / "model.safetensors")
    assert set(tensors) == torchvision_names()
    layers = {layer.name: layer for layer in encoder.encoder.backbone.layers}
    for name, value in tensors.items():
        layer, _, part = name.rpartition(".")
        if part == "num_batches_tracked":
            # A step of the quickstart's symmetric loss has two batches.
            assert (value.dtype, value.shape, value) == (np.int64, (), 10)
        elif value.ndim == 4:
            kernel = layers[layer].kernel.numpy()
            expected = kernel.transpose(3, 2, 0, 1)
            np.testing.assert_array_equal(value, expected)
        else:
            ours = {"weight": "gamma", "bias": "beta"}
            ours |= {"running_mean": "moving_mean"}
            ours |= {"running_var": "moving_variance"}
            expected = getattr(layers[layer], ours[part]).numpy()
            np.testing.assert_array_equal(value, expected)


def test_taken_in_again_it_gives_the_same_features(
    folder, encoder, tmp_path, capsys
):
    path = folder / "model.safetensors"
    fields = {"data.views": encoder.config.data.views}
    fields |= {"data.image_size": str(encoder.image_size)}
    text = (folder / "README.md").read_text(encoding="utf-8")
    for name, value in fields.items():
        assert f"--config.{name}={value}" in text
    importing.import_weights(path, tmp_path / "run", overrides=fields)
    again = frozen.open_frozen(tmp_path / "run")
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3))
    images = tf.constant(images, tf.uint8)
    left, right = encoder.encode(images), again.encode(images)
    np.testing.assert_array_equal(left["backbone"], right["backbone"])


def test_the_card_begins_with_metadata_that_the_hub_reads(folder, encoder):
    assert front(folder) == {
        "license": "cc-by-4.0",
        "library_name": "moco-tf",
        "pipeline_tag": "image-feature-extraction",
        "tags": [
            "image-feature-extraction",
            "self-supervised-learning",
            "moco",
        ],
    }
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert encoder.identity in text
    assert "moco-tf import-weights --path=photos/model.safetensors" in text
    assert "SavedModel" not in text and "signatures" not in text


def card_of(licence="unspecified", preset="moco_v2_imagenet", **model):
    """A card, and an encoder, of a configuration."""
    config = configs.load(preset).copy_and_resolve_references().unlock()
    config.model.update(model)
    recipe = views.RECIPES[config.data.views]
    encoder = types.SimpleNamespace(
        config=config, recipe=recipe, channels=3, image_size=224
    )
    layout = "torchvision" if hub_folder._is_torchvision(encoder) else "keras"
    card = {
        "name": "photos",
        "licence": licence,
        "layout": layout,
        "moco_tf": "0",
        "encoder": {
            "features": 2048,
            "identity": "ab",
            "method": config.method,
            "width": config.model.width,
            "stem": config.model.stem,
            "step": 5,
            "epoch": 1,
        },
        "preprocessing": {
            "views": config.data.views,
            "image_size": 224,
            "mean": list(recipe.mean),
            "std": list(recipe.std),
        },
    }
    return card, encoder


@pytest.mark.parametrize(
    ("licence", "lines"),
    [
        ("unspecified", {"license": "unknown"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("ours: all", {"license": "other", "license_name": "ours: all"}),
        ('a "b"\n#c', {"license": "other", "license_name": 'a "b"\n#c'}),
    ],
)
def test_a_licence_is_one_that_the_hub_knows_or_another(licence, lines):
    card, _ = card_of(licence)
    parsed = yaml.safe_load("\n".join(hub_folder.metadata(card)))
    kept = {k: v for k, v in parsed.items() if k.startswith("license")}
    assert kept == lines


@pytest.mark.parametrize(
    ("preset", "model", "name"),
    [
        ("moco_v2_imagenet", {}, "resnet50"),
        ("simclr_imagenet", {"backbone": "resnet18"}, "resnet18"),
        ("moco_v2_imagenet", {"width": 2.0}, "moco_tf_resnet50"),
        ("moco_cifar10", {}, "moco_tf_resnet18"),
        ("cpc_imagenet", {}, "moco_tf_"),
    ],
)
def test_the_network_has_timms_name_where_timm_builds_the_same(
    preset, model, name
):
    card, encoder = card_of(preset=preset, **model)
    settings = hub_folder.describe(encoder, card)
    assert settings["architecture"].startswith(name)
    built = hub_folder.is_of_timm(encoder)
    assert built == hub_folder._loads_in_timm(card)
    is_timms = not name.startswith("moco_tf_")
    library = yaml.safe_load("\n".join(hub_folder.metadata(card)))
    assert library["library_name"] == ("timm" if is_timms else "moco-tf")
    text = hub_folder._use(card)
    assert ("timm.create_model" in text) == is_timms


def test_pretrained_settings_are_those_of_the_evaluation_view():
    card, encoder = card_of()
    timms = hub_folder.describe(encoder, card)["pretrained_cfg"]
    assert timms["input_size"] == [3, 224, 224]
    assert timms["crop_pct"] == 224 / 256
    assert timms["mean"] == [0.485, 0.456, 0.406]
    others = hub_folder.preprocessor(card["preprocessing"], encoder.recipe)
    assert others["size"] == {"shortest_edge": 256}
    assert others["crop_size"] == {"height": 224, "width": 224}
    assert others["image_std"] == [0.229, 0.224, 0.225]


@pytest.mark.parametrize("name", views.RECIPES)
def test_the_short_side_is_that_of_the_view(name):
    """Of an image of rising columns the view shows so much as is left."""
    size, length = 56, 448
    ramp = np.linspace(0, 255, length)[None, :, None]
    image = np.tile(ramp, (length, 1, 3)).astype(np.uint8)
    shown = views.RECIPES[name].evaluate(tf.constant(image), size).numpy()
    row = shown[size // 2, :, 0].astype(float)
    share = (row[-1] - row[0]) / 255 * size / (size - 1)
    expected = hub_folder.short_side(views.RECIPES[name], size)
    assert size / share == pytest.approx(expected, abs=1)


def test_another_backbone_has_kerass_names_and_layout(tmp_path):
    config = configs.load(
        "quickstart",
        {
            "data.image_size": "16",
            "model.width": "0.0625",
            "model.norm": "layer",
            "model.head": "fc",
        },
    )
    workdir = tmp_path / "run"
    workdirs.save(config, workdir)
    built = frozen.build_encoder(config)
    checkpoints.save_query_encoder(built, workdir, 5, {})
    encoder = frozen.open_frozen(workdir)
    folder = hub_folder.export_run(encoder, tmp_path, "other", workdir=workdir)
    assert read(folder, "config.json")["moco_tf"]["layout"] == "keras"
    tensors = safetensors_numpy.load_file(folder / "model.safetensors")
    weights = encoder.encoder.backbone.weights
    assert len(tensors) == len(weights)
    for weight in weights:
        name = weight.name.removesuffix(":0").replace("/", ".")
        np.testing.assert_array_equal(tensors[name], weight.numpy())


@pytest.mark.parametrize("kind", ["lab", "pair"])
def test_both_networks_of_two_sensors_are_written(kind, tmp_path):
    fields = {"model.input": kind, "data.image_size": "16"}
    fields |= {"model.backbone": "resnet18", "model.width": "0.0625"}
    config = configs.load("cmc_imagenet", fields)
    built = frozen.build_encoder(config)
    workdir = tmp_path / "run"
    workdirs.save(config, workdir)
    checkpoints.save_query_encoder(built, workdir, 5, {})
    encoder = frozen.open_frozen(workdir)
    folder = hub_folder.export_run(encoder, tmp_path, "other", workdir=workdir)
    tensors = safetensors_numpy.load_file(folder / "model.safetensors")
    weights = encoder.encoder.backbone.weights
    assert len(tensors) == len(weights)
    theirs = [value.tobytes() for value in tensors.values()]
    ours = [weight.numpy().tobytes() for weight in weights]
    assert sorted(theirs) == sorted(ours)


def test_weights_of_another_library_are_not_called_ours(folder, tmp_path):
    path = folder / "model.safetensors"
    importing.import_weights(path, tmp_path / "run")
    words = [f"--workdir={tmp_path / 'run'}", f"--output={tmp_path}"]
    for form in ("hf", "saved_model"):
        name = ["--name=again"]
        assert cli.run(["export", *words, *name, f"--format={form}"]) == 0
    for path in (tmp_path / "again-hf/1", tmp_path / "again/1"):
        text = (path / "README.md").read_text(encoding="utf-8")
        assert "imported from model.safetensors with moco_tf" in text
        assert "which does not know how it was trained" in text
        for claim in ("without labels", "arXiv", "0 steps", "0 epochs"):
            assert claim not in text
    assert front(tmp_path / "again-hf/1")["tags"] == [
        "image-feature-extraction"
    ]


def test_a_folder_that_gives_other_features_is_not_left(
    encoder, tmp_path, monkeypatch
):
    write = safetensors_file.write

    def spoil(path, tensors):
        name = "layer4.0.bn2.bias"
        write(path, {**tensors, name: tensors[name] + np.float32(0.01)})

    monkeypatch.setattr(safetensors_file, "write", spoil)
    with pytest.raises(FloatingPointError, match="Nothing is left of it"):
        hub_folder.export_run(encoder, tmp_path, "spoiled")
    assert list((tmp_path / "spoiled-hf").iterdir()) == []


def test_a_version_is_written_once(folder, encoder):
    with pytest.raises(ValueError, match="A version is written once"):
        hub_folder.export_run(encoder, folder.parents[1], "photos", version=1)


def test_no_path_of_this_machine_is_shared_that_was_not_typed(
    folder, workdir, encoder
):
    """The run noted absolute paths; the card has what its command had."""
    typed = json.loads((workdir / "config.json").read_text())["config"]
    card = read(folder, "model_card.json")
    assert card["config"]["knn"]["bank"] == typed["knn"]["bank"]
    assert str(workdir) not in (folder / "README.md").read_text()


def test_huggingface_hub_itself_reads_the_card(folder):
    hub = pytest.importorskip(
        "huggingface_hub", reason=f"huggingface_hub is in {lane.EXTRAS}"
    )
    card = hub.ModelCard.load(folder / "README.md")
    assert card.data.to_dict() == front(folder)
    assert card.data.license == "cc-by-4.0"
    assert card.text.lstrip().startswith("# photos, version 1")
