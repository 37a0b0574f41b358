"""Records of files, read by their number."""

import os

import pytest
import tensorflow as tf

from moco_tf.data import tfds_records


def test_records_of_any_size_are_read(tmp_path):
    # Headers at, across and behind the ends of the blocks that are read.
    block = tfds_records._BLOCK
    sizes = [0, 1, block - 12 - 16 - 17 + 5, 4095, 4096, 3 * block, 0, 0, 7]
    sizes += [100] * 2000 + [5000] * 3 + [90] * 1000
    path = str(tmp_path / "records")
    with tf.io.TFRecordWriter(path) as writer:
        for number, size in enumerate(sizes):
            writer.write(bytes([number % 251]) * size)
    extent = tfds_records.Extent(path, 2, len(sizes) - 2, len(sizes))
    files = tfds_records.TfrecordFiles([extent])
    expected = [bytes([n % 251]) * size for n, size in enumerate(sizes)]
    assert files.read(range(len(files))).tolist() == expected[2:]


def test_of_several_damaged_files_the_first_is_named(tmp_path):
    paths = [str(tmp_path / str(number)) for number in range(40)]
    extents = [tfds_records.Extent(path, 0, 1, 1) for path in paths]
    with pytest.raises(ValueError, match=f"Received '{paths[0]}': No such"):
        tfds_records.TfrecordFiles(extents)


def test_descriptors_are_closed_when_many_files_are_read(tmp_path):
    extents = []
    for number in range(tfds_records._OPEN_FILES + 20):
        path = str(tmp_path / str(number))
        with tf.io.TFRecordWriter(path) as writer:
            writer.write(b"%d\0" % number)
        extents.append(tfds_records.Extent(path, 0, 1, 1))
    files = tfds_records.TfrecordFiles(extents)
    before = len(os.listdir("/proc/self/fd"))
    read = files.read(range(len(extents)))
    assert read.tolist() == [b"%d\0" % n for n in range(len(extents))]
    opened = len(os.listdir("/proc/self/fd")) - before
    assert opened <= tfds_records._OPEN_FILES


def test_a_pointer_in_place_of_records_is_named(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    extent = tfds_records.Extent(str(path), 0, 1, 1)
    with pytest.raises(ValueError, match="Git LFS pointer. Run `git lfs pull`"):
        tfds_records.TfrecordFiles([extent])
