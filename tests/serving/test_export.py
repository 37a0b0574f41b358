import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import plan, state_files, workdirs
from moco_tf.evaluation import embeddings, frozen
from moco_tf.methods import online_probe
from moco_tf.serving import export, signatures
from moco_tf.training import checkpoints
from moco_tf.weights import conversion, origin, starting
from tests import shallow, small_disk
from tests.evaluation import plain_frozen, small_encoder
from tests.methods import every_method

_network = shallow.fixture((1, 1, 1, 1))


@pytest.fixture(name="workdir", scope="module")
def _workdir(tmp_path_factory):
    return small_encoder.write(tmp_path_factory.mktemp("run"))


@pytest.fixture(name="encoder", scope="module")
def _encoder(workdir):
    return frozen.open_frozen(workdir)


def write_head(folder, encoder):
    folder.mkdir()
    np.savez(
        folder / "linear.npz",
        kernel=np.ones([32, 2], np.float32),
        bias=np.array([0, 1], np.float32),
        classes=np.array(["dark", "light"]),
    )
    result = {
        "encoder_identity": encoder.identity,
        "encoder": encoder.title,
        "features": "backbone",
        "way": "cached",
        "images": 4,
        "top1": 0.75,
        "top1_low": 0.3,
        "top1_high": 0.95,
    }
    state_files.write_json(folder / "result.json", result)
    return str(folder / "linear.npz")


@pytest.fixture(name="exported", scope="module")
def _exported(workdir, encoder):
    root = workdir.parent
    bank = str(root / "bank.npz")
    embeddings.embed_source(encoder, f"folder:{root / 'train'}", bank)
    return export.export_run(
        encoder,
        root / "export",
        "encoder",
        head=write_head(root / "probe", encoder),
        bank=bank,
        licence="Apache-2.0",
        workdir=str(workdir),
    )


def test_an_export_holds_all_its_files(exported):
    assert exported.parts[-2:] == ("encoder", "1")
    assert {path.name for path in exported.iterdir()} - {"assets"} == {
        "saved_model.pb",
        "fingerprint.pb",
        "variables",
        "assets.extra",
        "encoder.keras",
        "README.md",
        "model_card.json",
        "signatures.txt",
    }
    assert [path.name for path in exported.parent.iterdir()] == ["1"]
    loaded = tf.saved_model.load(str(exported))
    assert set(loaded.signatures) == {
        "serving_default",
        "embed_images",
        "embed_tensors",
        "classify",
        "neighbours",
    }


def test_the_card_is_that_of_the_export(exported, encoder):
    card = state_files.read_json(exported / "model_card.json")
    assert card["licence"] == "Apache-2.0"
    assert card["encoder"]["identity"] == encoder.identity
    assert card["encoder"]["features"] == 32
    assert card["metrics"]["linear"]["top1"] == 0.75
    # The run's k is 200; the bank holds 40 images.
    assert card["bank"].endswith("bank.npz (k = 40, temperature = 0.1)")


def test_a_second_export_is_the_next_version(
    exported, encoder, workdir, capsys
):
    path = export.export_run(encoder, exported.parent.parent, "encoder")
    assert path == exported.parent / "2"
    output = capsys.readouterr().out
    assert "Keras 3 cannot load it: use the SavedModel there" in output
    assert f"wrote {path}" in output
    for form in ("serving_default", "embed_images", "encoder.keras"):
        pattern = rf"{form} +max difference (\S+) .*cosine (\S+)"
        difference, cosine = re.search(pattern, output).groups()
        assert float(difference) < 1e-4
        assert float(cosine) > 0.9999
    assert f"saved_model_cli show --dir={path}" in output
    assert "/v1/models/encoder:predict" in output


@pytest.mark.parametrize("name", ["", "encoder.keras"])
def test_a_run_starts_from_an_export_as_from_its_run(exported, encoder, name):
    path = exported / name
    config = encoder.config.copy_and_resolve_references()
    config.update_from_flattened_dict({"seed": 1, "moco.queue_size": 64})
    weights = origin.read(str(path), "moco")
    method = conversion.make_method(config)
    start = starting.start(weights, method, config)
    images = tf.random.stateless_normal([2, 16, 16, 3], [0, 1])
    expected = encoder.encoder.features(images)[0]
    for begun in (method.query_encoder, method.key_encoder):
        np.testing.assert_allclose(
            begun.features(images)[0], expected, atol=1e-5
        )
    assert {part for part, *_ in start.taken} == {"backbone"}
    assert weights.fields == {
        "backbone": "resnet18",
        "width": 0.0625,
        "stem": "cifar",
        "input": "rgb",
        "norm": "batch",
    }
    assert weights.recipe == encoder.recipe
    # Served beside it, and no part of the encoder.
    others = {each.group for each in weights.left_out}
    assert others == (set() if name else {"head", "bank"})


@pytest.mark.parametrize("name", ["", "encoder.keras"])
def test_an_export_says_itself_what_images_it_takes(exported, encoder, name):
    opened = frozen.open_frozen(saved_model=str(exported / name))
    assert opened.recipe == encoder.recipe
    assert opened.image_size == 16
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    np.testing.assert_allclose(
        opened.encode(images)["backbone"],
        encoder.encode(images)["backbone"],
        rtol=1e-4,
        atol=1e-5,
    )


def test_an_export_that_differs_leaves_nothing(encoder, tmp_path, monkeypatch):
    backbone = signatures.float32_backbone(encoder)
    backbone.weights[0].assign(backbone.weights[0] * 1.01)
    monkeypatch.setattr(signatures, "float32_backbone", lambda _: backbone)
    with pytest.raises(FloatingPointError, match="give the run's features"):
        export.export_run(encoder, tmp_path, "encoder")
    assert list((tmp_path / "encoder").iterdir()) == []


def test_a_model_without_a_run_is_refused(tmp_path):
    encoder = plain_frozen.make_frozen()
    with pytest.raises(ValueError, match="'run/step-5', which is a model with"):
        export.export_run(encoder, tmp_path, "encoder")


def test_what_does_not_fit_is_refused_before_anything_is_written(
    encoder, tmp_path
):
    np.savez(
        tmp_path / "linear.npz",
        kernel=np.ones([9, 2], np.float32),
        bias=np.zeros(2, np.float32),
        classes=np.array(["a", "b"]),
    )
    with pytest.raises(ValueError, match="32 features.* for 9 features"):
        export.export_run(
            encoder,
            tmp_path / "export",
            "encoder",
            head=str(tmp_path / "linear.npz"),
        )
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    ("versions", "version", "expected"),
    [([], 0, "1"), ([1, 9], 0, "10"), ([1, 9], 5, "5"), ([], 7, "7")],
)
def test_a_version_is_the_next_or_the_one_asked_for(
    tmp_path, versions, version, expected
):
    for number in versions:
        (tmp_path / "encoder" / str(number)).mkdir(parents=True)
    folder = export.version_folder(tmp_path, "encoder", version)
    assert folder == tmp_path / "encoder" / expected


def test_a_version_is_never_replaced(tmp_path):
    for number in (2, 10):
        (tmp_path / "encoder" / str(number)).mkdir(parents=True)
    with pytest.raises(ValueError, match="--version=2, and .* holds 2, 10"):
        export.version_folder(tmp_path, "encoder", 2)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b"])
def test_a_name_that_is_no_folder_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="--name must be of letters"):
        export.version_folder(tmp_path, name)


def test_a_version_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Received -1"):
        export.version_folder(tmp_path, "encoder", -1)


FINE_TUNE = """
import sys
sys.modules["moco_tf"] = None  # importing it fails from here on
import numpy as np
import tensorflow as tf

tf.random.set_seed(0)
encoder = tf.saved_model.load(sys.argv[1])
images = tf.random.normal([8, 16, 16, 3])
labels = tf.constant([0, 1] * 4)
before = [v.numpy() for v in encoder.variables]
kernel = tf.Variable(tf.random.normal([32, 2]))
trained = [*encoder.trainable_variables, kernel]
optimizer = tf.keras.optimizers.SGD(0.1)
losses = []
for _ in range(8):
    with tf.GradientTape() as tape:
        logits = encoder(images, training=True) @ kernel
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        )
    gradients = tape.gradient(loss, trained)
    assert all(np.abs(g).max() > 0 for g in gradients), gradients
    optimizer.apply_gradients(zip(gradients, trained))
    losses.append(float(loss))
moved = [np.abs(v - b).max() > 0 for v, b in zip(encoder.variables, before)]
assert all(moved), moved  # the moving statistics too
with tf.GradientTape() as tape:
    rows = encoder(images, training=False)
    loss = tf.reduce_sum(rows * rows)
assert all(g is not None for g in tape.gradient(
    loss, encoder.trainable_variables))
served = encoder.signatures["embed_tensors"](images=images)["features"]
np.testing.assert_allclose(rows, served, rtol=1e-5, atol=1e-5)
print("losses", losses[0], losses[-1])
"""


def test_it_is_fine_tuned_where_this_package_is_not(exported, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FINE_TUNE, str(exported)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, last = map(float, done.stdout.split()[-2:])
    assert last < 0.9 * first


def test_a_full_disk_is_told_and_nothing_is_left(encoder, tmp_path):
    with small_disk.mounted(tmp_path, "size=100k"):
        with pytest.raises(OSError, match="(?s)could not be written: .*--outp"):
            export.export_run(encoder, tmp_path, "encoder")
        assert [x.name for x in tmp_path.rglob("*")] == ["encoder"]


@pytest.mark.parametrize("method", ["cmc", "cpc"])
def test_an_encoder_of_parts_is_served_as_others_are(method, tmp_path):
    config = every_method.make_config(method, probe__online=True)
    labels = np.arange(every_method.IMAGES) % 3
    with shallow.network():
        pretrained = plan.make_method(
            config,
            tf.distribute.get_strategy(),
            every_method.IMAGES,
            online_probe.Labels(labels, 3),
        )
        workdirs.save(config, tmp_path / "run")
        checkpoints.save(pretrained, tmp_path / "run", 1, {})
        encoder = frozen.open_frozen(tmp_path / "run")
        export.export_run(
            encoder, tmp_path / "out", "encoder", workdir=str(tmp_path / "run")
        )
    folder = tmp_path / "out" / "encoder" / "1"
    stored = tf.train.list_variables(str(folder / "variables" / "variables"))
    # All that is stored, but not the probe that was trained beside it.
    shapes = [shape for _, shape in stored]
    assert pretrained.backbone.weights[0].shape.as_list() in shapes
    assert pretrained.probe.kernel.shape.as_list() not in shapes
    served = tf.saved_model.load(str(folder))
    images = tf.random.stateless_normal([2, 16, 16, 3], [0, 1])
    features = served(images, training=False)
    np.testing.assert_allclose(
        features,
        pretrained.backbone(images, training=False),
        rtol=1e-4,
        atol=1e-5,
    )
