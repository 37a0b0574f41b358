"""Class-balanced choices: how many, which, and that they stay the same."""

import numpy as np
import pytest

from moco_tf.evaluation import frozen, supervised
from tests import shallow
from tests.evaluation import small_encoder

_network = shallow.fixture()


@pytest.fixture(name="workdir", scope="module")
def _workdir(tmp_path_factory):
    return small_encoder.write(tmp_path_factory.mktemp("run"))


def test_the_runs_own_sources_are_the_default(workdir):
    labelled = supervised.open_labelled("", "", frozen.load_config(workdir))
    assert (len(labelled.train), len(labelled.test)) == (40, 11)
    assert labelled.names == ["dark", "light"]
    assert np.bincount(labelled.train_labels).tolist() == [20, 20]


def test_test_labels_are_in_the_numbering_of_the_training_set(
    workdir, tmp_path
):
    light = tmp_path / "test.txt"
    image = workdir.parent / "test" / "light" / "0.png"
    light.write_text(f"{image}\tlight\n")
    train = f"folder:{workdir.parent / 'train'}"
    labelled = supervised.open_labelled(train, f"list:{light}")
    assert labelled.test_labels.tolist() == [1]


def test_sources_that_nobody_names_are_refused():
    with pytest.raises(ValueError, match="Pass --config.data.train=folder"):
        supervised.open_labelled("", "")


def test_a_training_set_without_labels_is_refused(workdir, tmp_path):
    plain = tmp_path / "train.txt"
    plain.write_text(f"{workdir.parent / 'train' / 'dark' / '0.png'}\n")
    with pytest.raises(ValueError, match="The training set has none"):
        supervised.open_labelled(
            f"list:{plain}", f"folder:{workdir.parent / 'test'}"
        )


def test_a_class_that_only_the_test_set_has_is_refused(workdir, tmp_path):
    train = tmp_path / "train.txt"
    train.write_text(f"{workdir.parent / 'train' / 'dark' / '0.png'}\tdark\n")
    with pytest.raises(ValueError, match="1 classes and 2; missing .*: light"):
        supervised.open_labelled(
            f"list:{train}", f"folder:{workdir.parent / 'test'}"
        )


# 10, 4, 1 and 25 images of the classes 0, 2, 3 and 7, mixed.
LABELS = np.random.default_rng(0).permutation(
    np.repeat([0, 2, 3, 7], [10, 4, 1, 25])
)


def counts(chosen):
    """Chosen images of the classes 0, 2, 3 and 7."""
    return [int((LABELS[chosen] == name).sum()) for name in (0, 2, 3, 7)]


@pytest.mark.parametrize(
    "fraction, expected",
    [
        (0.01, [1, 1, 1, 1]),  # at least one
        (0.1, [1, 1, 1, 3]),  # 2.5 is rounded up
        (0.14, [1, 1, 1, 4]),  # 3.5
        (0.5, [5, 2, 1, 13]),
        (1.0, [10, 4, 1, 25]),
    ],
)
def test_each_class_gives_its_rounded_share_and_at_least_one(
    fraction, expected
):
    chosen = supervised.balanced(LABELS, fraction, seed=3)
    assert counts(chosen) == expected
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()


def test_a_smaller_choice_is_part_of_a_larger_one():
    choices = [
        set(supervised.balanced(LABELS, fraction, seed=5).tolist())
        for fraction in (0.01, 0.1, 0.3, 0.9, 1.0)
    ]
    for smaller, larger in zip(choices, choices[1:], strict=False):
        assert smaller < larger


def test_the_choice_depends_on_the_seed_alone():
    first = supervised.balanced(LABELS, 0.3, seed=1)
    np.testing.assert_array_equal(
        first, supervised.balanced(LABELS.astype(np.int32), 0.3, seed=1)
    )
    assert set(first) != set(supervised.balanced(LABELS, 0.3, seed=2))


def test_the_choice_is_that_of_philox_with_the_seed_as_its_key():
    # The two images of 40 with the smallest draws of each class.
    labels = np.repeat([0, 1], 20)
    draws = np.random.Philox(key=[11, 0]).random_raw(40)
    expected = [*np.argsort(draws[:20])[:2], *(20 + np.argsort(draws[20:])[:2])]
    chosen = supervised.balanced(labels, 0.1, seed=11)
    assert chosen.tolist() == sorted(expected)


def test_all_images_are_equally_likely():
    labels = np.zeros(10, np.int64)
    drawn = [supervised.balanced(labels, 0.3, seed) for seed in range(2000)]
    times = np.bincount(np.concatenate(drawn), minlength=10)
    # 600 each; the deviation of a binomial count is 20.5.
    assert np.abs(times - 600).max() < 5 * 20.5


@pytest.mark.parametrize(
    "holdout, expected",
    [
        (0.0, [0, 0, 0, 0]),
        (0.01, [1, 1, 0, 1]),  # never the only image of a class
        (0.2, [2, 1, 0, 5]),
        (0.99, [9, 3, 0, 24]),  # one of each class is kept
    ],
)
def test_split_holds_out_of_each_class_and_keeps_one(holdout, expected):
    kept, held_out = supervised.split(LABELS, holdout, seed=3)
    assert counts(held_out) == expected
    np.testing.assert_array_equal(
        np.sort(np.concatenate([kept, held_out])), np.arange(40)
    )
    assert held_out.dtype == kept.dtype == np.int64


def test_the_held_out_images_are_not_those_a_choice_begins_with():
    labels = np.zeros(1000, np.int64)
    chosen = set(supervised.balanced(labels, 0.5, seed=0).tolist())
    held_out = set(supervised.split(labels, 0.5, seed=0)[1].tolist())
    assert 150 < len(chosen & held_out) < 350  # 250 where they are independent


@pytest.mark.parametrize(
    "choose, message",
    [
        (lambda: supervised.balanced(LABELS, 0.0, 0), "Received 0.0"),
        (lambda: supervised.balanced(LABELS, 1.1, 0), "Received 1.1"),
        (lambda: supervised.split(LABELS, 1.0, 0), "Received holdout=1.0"),
        (lambda: supervised.split(LABELS, -0.1, 0), "Received holdout=-0.1"),
        (lambda: supervised.balanced([], 0.5, 0), r"Received .* shape \(0,\)"),
        (lambda: supervised.split(None, 0.5, 0), r"Received .* shape \(\)"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(choose, message):
    with pytest.raises(ValueError, match=message):
        choose()
