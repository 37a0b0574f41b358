import numpy as np

from moco_tf.doctor import images


def random_images(count, seed=0):
    rng = np.random.default_rng(seed)
    looks = rng.integers(-(2**63), 2**63, count)
    little = rng.integers(0, 256, (count, 256), np.uint8)
    return rng, looks, little


def flip(look, places):
    """A hash with other bits at places, as int64."""
    mask = sum(1 << int(place) for place in places)
    return np.uint64(int(look) % 2**64 ^ mask).view(np.int64)


def test_exact_copies_are_grouped_with_the_first():
    found = images.exact_copies(np.array([7, 5, 7, 9, 5, 7]))
    np.testing.assert_array_equal(found, [0, 1, 0, 3, 1, 0])


def test_distance_counts_bits():
    left = np.array([0, 0b1011, 2**64 - 1], np.uint64)
    right = np.array([0, 0b0010, 0], np.uint64)
    assert images.distance(left, right).tolist() == [0, 2, 64]


def test_likeness_is_the_correlation_of_pixels():
    rng = np.random.default_rng(0)
    left = rng.integers(0, 256, (3, 256), np.uint8)
    right = rng.integers(0, 256, (3, 256), np.uint8)
    expected = [np.corrcoef(left[n], right[n])[0, 1] for n in range(3)]
    found = images.likeness(left, right)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    brighter = (left // 2 + 50).astype(np.uint8)
    assert images.likeness(left, brighter).min() > 0.999


def test_wherever_eight_bits_differ_the_pair_is_found():
    rng, looks, little = random_images(400)
    for number in range(200):
        places = rng.choice(64, 8, replace=False)
        looks[200 + number] = flip(looks[number], places)
        little[200 + number] = little[number]
    groups = images.alike(looks, little)
    np.testing.assert_array_equal(groups, [*range(200), *range(200)])


def test_nine_bits_are_too_many():
    rng, looks, little = random_images(2)
    looks[1] = flip(looks[0], rng.choice(64, 9, replace=False))
    little[1] = little[0]
    assert images.alike(looks, little).tolist() == [0, 1]


def test_a_like_hash_of_other_pixels_is_no_copy():
    _, looks, little = random_images(2)
    looks[1] = looks[0]
    assert images.alike(looks, little).tolist() == [0, 1]


def test_a_crowd_of_copies_is_one_group():
    _, looks, little = random_images(300)
    looks[50:250] = looks[50]
    little[50:250] = little[50]
    groups = images.alike(looks, little)
    expected = np.arange(300)
    expected[50:250] = 50
    np.testing.assert_array_equal(groups, expected)


def test_a_chain_is_one_group_named_by_its_first():
    _, looks, little = random_images(4)
    looks[2] = flip(looks[0], range(6))
    looks[1] = flip(looks[2], range(20, 26))  # 12 bits from the first
    little[1] = little[2] = little[0]
    assert images.alike(looks, little).tolist() == [0, 0, 0, 3]


def test_none_and_one_image():
    for count in (0, 1):
        _, looks, little = random_images(count)
        assert images.alike(looks, little).tolist() == list(range(count))
