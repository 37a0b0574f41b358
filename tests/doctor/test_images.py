import numpy as np

from moco_tf.doctor import images


def random_images(count, seed=0):
    rng = np.random.default_rng(seed)
    hashes = rng.integers(-(2**63), 2**63, count)
    thumbnails = rng.integers(0, 256, (count, 256), np.uint8)
    return rng, hashes, thumbnails


def flip(hashed, bits):
    """A hash with some of its bits flipped, as int64."""
    mask = sum(1 << int(bit) for bit in bits)
    return np.uint64(int(hashed) % 2**64 ^ mask).view(np.int64)


def test_exact_copies_are_grouped_with_the_first():
    groups = images.exact_copies(np.array([7, 5, 7, 9, 5, 7]))
    np.testing.assert_array_equal(groups, [0, 1, 0, 3, 1, 0])


def test_distance_counts_bits():
    left = np.array([0, 0b1011, 2**64 - 1], np.uint64)
    right = np.array([0, 0b0010, 0], np.uint64)
    assert images.hamming_distance(left, right).tolist() == [0, 2, 64]


def test_thumbnails_are_compared_by_the_correlation_of_pixels():
    rng = np.random.default_rng(0)
    left = rng.integers(0, 256, (3, 256), np.uint8)
    right = rng.integers(0, 256, (3, 256), np.uint8)
    expected = [np.corrcoef(left[n], right[n])[0, 1] for n in range(3)]
    measured = images.correlation(left, right)
    np.testing.assert_allclose(measured, expected, atol=1e-5)
    brighter = (left // 2 + 50).astype(np.uint8)
    assert images.correlation(left, brighter).min() > 0.999


def test_wherever_eight_bits_differ_the_pair_is_found():
    rng, hashes, thumbnails = random_images(400)
    for number in range(200):
        bits = rng.choice(64, 8, replace=False)
        hashes[200 + number] = flip(hashes[number], bits)
        thumbnails[200 + number] = thumbnails[number]
    groups = images.near_copies(hashes, thumbnails)
    np.testing.assert_array_equal(groups, [*range(200), *range(200)])


def test_nine_bits_are_too_many():
    rng, hashes, thumbnails = random_images(2)
    hashes[1] = flip(hashes[0], rng.choice(64, 9, replace=False))
    thumbnails[1] = thumbnails[0]
    assert images.near_copies(hashes, thumbnails).tolist() == [0, 1]


def test_a_like_hash_of_other_pixels_is_no_copy():
    _, hashes, thumbnails = random_images(2)
    hashes[1] = hashes[0]
    assert images.near_copies(hashes, thumbnails).tolist() == [0, 1]


def test_a_crowd_of_copies_is_one_group():
    _, hashes, thumbnails = random_images(300)
    hashes[50:250] = hashes[50]
    thumbnails[50:250] = thumbnails[50]
    groups = images.near_copies(hashes, thumbnails)
    expected = np.arange(300)
    expected[50:250] = 50
    np.testing.assert_array_equal(groups, expected)


def test_a_chain_is_one_group_named_by_its_first():
    _, hashes, thumbnails = random_images(4)
    hashes[2] = flip(hashes[0], range(6))
    hashes[1] = flip(hashes[2], range(20, 26))  # 12 bits from the first
    thumbnails[1] = thumbnails[2] = thumbnails[0]
    assert images.near_copies(hashes, thumbnails).tolist() == [0, 0, 0, 3]


def test_none_and_one_image():
    for count in (0, 1):
        _, hashes, thumbnails = random_images(count)
        assert images.near_copies(hashes, thumbnails).tolist() == list(
            range(count)
        )


def test_a_name_that_is_no_text_is_shown_as_a_shell_reads_it():
    assert images._short("a/caf\udce9.jpg") == r"$'a/caf\351.jpg'"
    assert images._short("b.jpg") == "b.jpg"
