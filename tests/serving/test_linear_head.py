import json

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.serving import labelling
from tests.evaluation import plain_frozen


def write(folder, kernel=(4, 2), **result):
    folder.mkdir(exist_ok=True)
    arrays = {
        "kernel": np.arange(np.prod(kernel), dtype=np.float32).reshape(kernel),
        "bias": np.zeros(kernel[1], np.float32),
        "classes": np.array([f"class {n}" for n in range(kernel[1])]),
    }
    np.savez(folder / "linear.npz", **arrays)
    if result:
        (folder / "result.json").write_text(json.dumps(result))
    return folder / "linear.npz"


@pytest.fixture(name="judged", scope="module")
def _judged():
    return plain_frozen.make_frozen(identity="ab" * 32)


def test_classes_come_with_their_probabilities_in_order():
    head = labelling.LinearHead(
        np.array([[0, 1, 2], [1, 0, 0]], np.float32),
        np.array([0, 0, 1], np.float32),
        ["a", "b", "c"],
    )
    classes, found = head(tf.constant([[0.0, 0.0], [1.0, 4.0]]))
    # Logits: 0, 0, 1 and 4, 1, 3.
    assert classes.numpy().tolist() == [[b"c", b"a", b"b"], [b"a", b"c", b"b"]]
    e = np.exp
    expected = [
        np.array([e(1), 1, 1]) / (e(1) + 2),
        np.array([e(4), e(3), e(1)]) / (e(4) + e(3) + e(1)),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_names_that_are_no_text_are_served_without_their_bytes():
    head = labelling.LinearHead(
        np.eye(2, dtype=np.float32), np.zeros(2, np.float32), ["\udcff", "a"]
    )
    classes, _ = head(tf.constant([[2.0, 1.0]]))
    assert classes.numpy().tolist() == [[b"?", b"a"]]


def test_five_classes_are_shown():
    head = labelling.LinearHead(
        np.eye(7, dtype=np.float32), np.zeros(7, np.float32), list("abcdefg")
    )
    classes, _ = head(tf.constant([[1.0, 7.0, 3.0, 6.0, 2.0, 5.0, 4.0]]))
    assert classes.numpy().tolist() == [[b"b", b"d", b"f", b"g", b"c"]]


def test_a_head_is_opened_with_what_its_probe_found(tmp_path, judged):
    result = {
        "encoder_identity": judged.identity,
        "features": "backbone",
        "top1": 0.5,
    }
    write(tmp_path / "probe", **result)
    head, found = labelling.open_head(tmp_path / "probe", judged, 4)
    np.testing.assert_array_equal(head.kernel, np.arange(8).reshape(4, 2))
    assert head.classes == ("class 0", "class 1")
    assert found == result


def test_a_head_without_its_result_is_opened(tmp_path, judged):
    assert labelling.open_head(write(tmp_path), judged, 4)[1] == {}


def test_a_head_of_another_width_is_refused(tmp_path, judged):
    path = write(tmp_path)
    with pytest.raises(ValueError, match="encoder's 32 features.*for 4 feat"):
        labelling.open_head(path, judged, 32)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            {"encoder_identity": "cd" * 32, "encoder": "other/step-9"},
            r"cdcdcdcdcdcdcdcd \(other/step-9\), and the encoder abababababab",
        ),
        ({"encoder_identity": "ab" * 32, "features": "projection"}, "'proj"),
    ],
)
def test_a_head_of_something_else_is_refused(tmp_path, judged, result, message):
    path = write(tmp_path, **result)
    with pytest.raises(ValueError, match=message):
        labelling.open_head(path, judged, 4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (None, "Received .*linear.npz': .*No such file"),
        ({"kernel": np.zeros([4, 2])}, "with kernel, bias and classes"),
        (
            {
                "kernel": np.zeros([4, 2]),
                "bias": np.zeros(3),
                "classes": np.array(["a", "b"]),
            },
            r"\(4, 2\), \(3,\), \(2,\)",
        ),
        (
            {
                "kernel": np.full([4, 2], np.nan),
                "bias": np.zeros(2),
                "classes": np.array(["a", "b"]),
            },
            "a finite kernel",
        ),
        (
            {
                "kernel": np.zeros([4, 2]),
                "bias": np.zeros(2),
                "classes": np.array([{}, {}], object),
            },
            "allow_pickle=False",
        ),
    ],
)
def test_what_is_no_head_is_refused(tmp_path, judged, arrays, message):
    if arrays is not None:
        np.savez(tmp_path / "linear.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        labelling.open_head(tmp_path / "linear.npz", judged, 4)
