import csv
import warnings

import numpy as np
import pytest
from PIL import Image

from moco_tf.evaluation import accuracy


@pytest.mark.parametrize(
    "correct, total, low, high",
    [  # Wilson (1927); figures of the published tables for 95 %
        (5, 10, 0.2366, 0.7634),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_the_interval_is_wilsons(correct, total, low, high):
    result = accuracy.wilson(correct, total)
    np.testing.assert_allclose(result, (low, high), atol=1e-4)


def test_a_label_is_in_the_top_k_if_fewer_than_k_are_better():
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    labels = np.array([1, 0])
    assert accuracy.in_top(scores, labels, 1).tolist() == [False, False]
    assert accuracy.in_top(scores, labels, 2).tolist() == [True, False]
    assert accuracy.in_top(scores, labels, 3).tolist() == [True, True]


def test_of_equal_scores_the_lower_class_is_better():
    scores = np.zeros([3, 3])
    result = accuracy.in_top(scores, np.array([0, 1, 2]), 1)
    assert result.tolist() == [True, False, False]


def test_the_summary_has_top_5_from_six_classes_on():
    scores = np.tile(np.arange(6.0), [4, 1])  # 5 best, 0 worst
    result = accuracy.summary(scores, np.array([5, 5, 1, 0]))
    assert (result["images"], result["top1"], result["top5"]) == (4, 0.5, 0.75)
    assert result["top1_low"] < 0.5 < result["top1_high"]
    assert "top5" not in accuracy.summary(scores[:, :5], np.array([1, 2, 3, 4]))


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="Scores must be finite"):
        accuracy.summary(np.full([2, 2], np.nan), np.array([0, 1]))


def test_the_confusion_counts_labels_by_prediction():
    result = accuracy.confusion([0, 1, 1, 1], [0, 0, 1, 1], 3)
    assert result.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]


def test_the_tables_name_classes_and_leave_absent_ones_empty(tmp_path):
    names = ["cat", "dog", "emu"]
    accuracy.write_confusion(tmp_path, [0, 1, 1, 1], [0, 0, 1, 1], names)
    rows = list(csv.reader((tmp_path / "confusion.csv").open()))
    assert rows[1:] == [
        ["cat", "1", "1", "0"],
        ["dog", "0", "2", "0"],
        ["emu", "0", "0", "0"],
    ]
    rows = list(csv.DictReader((tmp_path / "per_class.csv").open()))
    assert [row["accuracy"] for row in rows] == ["0.5000", "1.0000", ""]
    assert [row["images"] for row in rows] == ["2", "2", "0"]


@pytest.mark.parametrize("classes", [3, 100])
def test_the_picture_is_dark_on_the_diagonal_alone(tmp_path, classes):
    labels = np.arange(classes)
    names = [f"class {n}" for n in labels]
    accuracy.write_confusion(tmp_path, labels, labels, names)
    with Image.open(tmp_path / "confusion.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), int)
    dark = np.all(np.abs(pixels - (8, 48, 107)) < 12, axis=2)  # of "Blues"
    assert 0.002 < dark.mean() < 0.3


def test_names_of_classes_need_be_neither_text_nor_formula(tmp_path):
    names = ["$a_$", "caf\udce9", "b"]
    accuracy.write_confusion(tmp_path, np.arange(3), np.arange(3), names)
    assert Image.open(tmp_path / "confusion.png").size[0] > 100


def test_classes_in_a_script_that_the_font_lacks_are_numbered(tmp_path):
    names = ["Hunde", "犬", "猫", "собаки"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "Glyph 29356 missing from font(s)"
        accuracy.write_confusion(tmp_path, np.arange(4), np.arange(4), names)
    rows = list(csv.reader((tmp_path / "confusion.csv").open(encoding="utf-8")))
    assert rows[0][1:] == names


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Urlaub & Meer", "Urlaub & Meer"),
        ("family (mum's)", "family (mum's)"),
        ("собаки", "собаки"),
        ("犬と猫", "no. 7"),
        ("dogs 犬", "no. 7"),
        ("caf\udce9", "caf?"),
        ("two\nlines", "no. 7"),
        ("\x07bell", "no. 7"),
    ],
)
def test_a_name_is_drawn_whole_or_not_at_all(name, shown):
    assert accuracy.drawn(name, "no. 7") == shown
