import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import sources, views
from moco_tf.evaluation import features, frozen, voting
from moco_tf.serving import signatures
from tests import shallow
from tests.data import pictures
from tests.evaluation import small_encoder
from tests.serving import plain_served

_network = shallow.fixture((1, 1, 1, 1))
RED, GREY = (255, 0, 0), (128, 128, 128)
CONVERTIBLE = {
    "Placeholder", "NoOp", "Identity", "Const", "ReadVariableOp", "Mean",
    "Reshape", "Shape", "StridedSlice", "FusedBatchNormV3", "Square", "Sum",
    "Maximum", "Rsqrt", "Mul", "Pack", "Prod", "EnsureShape",
}  # fmt: skip


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory):
    return plain_served.save(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(name="served", scope="module")
def _served(path):
    return tf.saved_model.load(path).signatures


@pytest.fixture(name="encoder", scope="module")
def _encoder(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    return frozen.open_frozen(small_encoder.write(root))


def solid(*colours):
    """uint8 [n, 8, 8, 3] of one colour each."""
    return np.tile(np.array(colours, np.uint8)[:, None, None], (1, 8, 8, 1))


def test_bytes_of_any_form_and_size_become_features(served):
    files = [
        plain_served.colour(RED, form, size)
        for form, size in (
            ("PNG", (8, 8)),
            ("JPEG", (31, 17)),
            ("GIF", (5, 90)),
            ("BMP", (200, 3)),
        )
    ]
    answer = served["serving_default"](image_bytes=tf.constant(files))
    # A JPEG's red is (254, 0, 0).
    expected = plain_served.features(solid(RED, (254, 0, 0), RED, RED))
    np.testing.assert_allclose(answer["features"], expected, rtol=1e-4)
    assert answer["valid"].numpy().all()


def test_a_file_that_cannot_be_read_fails_no_other(served):
    grey = plain_served.colour(GREY)
    files = [b"", grey, grey[:40], plain_served.colour(RED)]
    answer = served["serving_default"](image_bytes=tf.constant(files))
    assert answer["valid"].numpy().tolist() == [False, True, False, True]
    expected = plain_served.features(solid(GREY, RED))
    np.testing.assert_allclose(answer["features"][1::2], expected, rtol=1e-4)
    for name in ("features", "normalised"):
        np.testing.assert_array_equal(answer[name][::2], np.zeros([2, 3]))


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("serving_default", {"features": 3, "normalised": 3}),
        ("classify", {"classes": 3, "probabilities": 3}),
        ("neighbours", {"classes": 3, "scores": 3}),
    ],
)
def test_a_batch_may_hold_no_file(served, name, outputs):
    answer = served[name](image_bytes=tf.constant([], tf.string))
    shapes = {key: rows.shape.as_list() for key, rows in answer.items()}
    assert shapes == {
        **{key: [0, size] for key, size in outputs.items()},
        "valid": [0],
    }


@pytest.mark.parametrize("size", [(8, 8), (40, 9), (3, 70), (1, 1)])
def test_pixels_give_the_features_of_their_file(served, size):
    pixels = np.asarray(pictures.scene(size=size))
    contents = pictures.encode(pictures.scene(size=size), "PNG")
    answer = served["embed_images"](images=pixels[np.newaxis])
    expected = served["serving_default"](image_bytes=tf.constant([contents]))
    for name, rows in expected.items():
        np.testing.assert_array_equal(answer[name], rows)


@pytest.mark.parametrize("shape", [(2, 0, 9, 3), (0, 9, 9, 3), (0, 0, 0, 3)])
def test_pixels_may_be_none(served, shape):
    answer = served["embed_images"](images=np.zeros(shape, np.uint8))
    assert not answer["features"].numpy().any()
    assert answer["features"].shape == [shape[0], 3]
    assert answer["valid"].numpy().tolist() == [False] * shape[0]


def test_tensors_are_taken_as_they_are(served):
    pixels = solid(RED, GREY)
    recipe = plain_served.RECIPE
    images = ((pixels / 255 - recipe.mean) / recipe.std).astype(np.float32)
    answer = served["embed_tensors"](images=images)
    assert set(answer) == {"features", "normalised"}
    expected = plain_served.features(pixels)
    np.testing.assert_allclose(answer["features"], expected, rtol=1e-4)
    np.testing.assert_allclose(
        answer["normalised"],
        expected / np.linalg.norm(expected, axis=1, keepdims=True),
        rtol=1e-4,
    )


def test_classes_and_their_probabilities(served):
    files = tf.constant([plain_served.colour(RED), b"x"])
    answer = served["classify"](image_bytes=files)
    logit = plain_served.features(solid(RED))[0, 0]
    shares = np.exp([2 * logit, logit, -logit])
    assert answer["classes"].numpy().tolist() == [
        [b"light", b"middling", b"dark"],
        [b"", b"", b""],
    ]
    np.testing.assert_allclose(
        answer["probabilities"], [shares / shares.sum(), [0, 0, 0]], rtol=1e-4
    )
    assert answer["valid"].numpy().tolist() == [True, False]


def test_neighbours_vote_as_knn_does(served):
    files = tf.constant([plain_served.colour(RED), b"x"])
    answer = served["neighbours"](image_bytes=files)
    votes = voting.weighted_vote(
        plain_served.BANK_ROWS,
        plain_served.BANK_LABELS,
        plain_served.features(solid(RED)),
        plain_served.BANK_K,
        plain_served.BANK_TEMPERATURE,
        classes=3,
    )[0]
    order = np.argsort(-votes, kind="stable")
    np.testing.assert_allclose(answer["scores"][0], votes[order], rtol=1e-4)
    names = answer["classes"].numpy().tolist()
    assert names == [[b"abc"[index : index + 1] for index in order], [b""] * 3]
    assert answer["scores"].numpy()[1].tolist() == [0, 0, 0]


def test_tensors_meet_no_operation_that_converters_lack(served):
    graph = served["embed_tensors"].graph.as_graph_def()
    nodes = [node for f in graph.library.function for node in f.node_def]
    operations = {node.op for node in [*graph.node, *nodes]}
    operations -= {"StatefulPartitionedCall", "PartitionedCall"}
    assert operations and operations <= CONVERTIBLE


def test_no_signature_needs_python(served):
    for signature in served.values():
        graph = signature.graph.as_graph_def()
        nodes = [node for f in graph.library.function for node in f.node_def]
        operations = {node.op for node in [*graph.node, *nodes]}
        assert not {op for op in operations if "PyFunc" in op}


def test_features_are_those_of_evaluation(encoder, tmp_path):
    random = np.random.default_rng(3)
    (tmp_path / "images" / "a").mkdir(parents=True)
    for number, size in enumerate([(16, 16), (70, 33), (20, 90), (9, 9)]):
        pixels = random.integers(0, 256, (*size, 3), np.uint8)
        image = pictures.Image.fromarray(pixels)
        form = ("PNG", "JPEG")[number % 2]
        path = tmp_path / "images" / "a" / f"{number}.png"
        path.write_bytes(pictures.encode(image, form))
    (tmp_path / "images" / "a" / "4.png").write_bytes(b"not an image")
    source = sources.open_source(f"folder:{tmp_path / 'images'}")
    stored = features.extract_to_disk(encoder, source, tmp_path / "store", 4)

    served = signatures.ServedEncoder(
        signatures.float32_backbone(encoder), encoder.recipe, encoder.image_size
    ).signatures()
    files = sorted((tmp_path / "images" / "a").iterdir())
    answer = served["serving_default"](
        tf.constant([path.read_bytes() for path in files])
    )
    assert answer["valid"].numpy().tolist() == [True] * 4 + [False]
    np.testing.assert_allclose(
        answer["features"][:4], stored.rows["backbone"], rtol=1e-5, atol=1e-6
    )
    assert set(served) == {"serving_default", "embed_images", "embed_tensors"}


def test_a_run_in_bfloat16_is_served_in_float32(encoder):
    config = encoder.config.copy_and_resolve_references()
    config.train.precision = "mixed_bfloat16"
    mixed = frozen.build_encoder(config)
    for new, old in zip(mixed.weights, encoder.weights, strict=True):
        new.assign(old)
    run = frozen.freeze(mixed, config, "run")
    backbone = signatures.float32_backbone(run)
    assert {layer.compute_dtype for layer in backbone.layers} == {"float32"}
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    tensors = views.normalize(
        tf.constant(images), run.recipe.mean, run.recipe.std
    )
    np.testing.assert_allclose(
        backbone(tensors, training=False),
        encoder.encode(images)["backbone"],
        rtol=1e-5,
        atol=1e-6,
    )
