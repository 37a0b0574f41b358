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
    pair = supervised.open_pair("", "", frozen.load_config(workdir))
    assert (len(pair.train), len(pair.test)) == (40, 11)
    assert pair.names == ["dark", "light"]
    assert np.bincount(pair.train_labels).tolist() == [20, 20]


def test_test_labels_are_in_the_numbering_of_the_training_set(
    workdir, tmp_path
):
    light = tmp_path / "test.txt"
    image = workdir.parent / "test" / "light" / "0.png"
    light.write_text(f"{image}\tlight\n")
    train = f"folder:{workdir.parent / 'train'}"
    pair = supervised.open_pair(train, f"list:{light}")
    assert pair.test_labels.tolist() == [1]


def test_sources_that_nobody_names_are_refused():
    with pytest.raises(ValueError, match="Pass --config.data.train=folder"):
        supervised.open_pair("", "")


def test_a_training_set_without_labels_is_refused(workdir, tmp_path):
    plain = tmp_path / "train.txt"
    plain.write_text(f"{workdir.parent / 'train' / 'dark' / '0.png'}\n")
    with pytest.raises(ValueError, match="The training set has none"):
        supervised.open_pair(
            f"list:{plain}", f"folder:{workdir.parent / 'test'}"
        )


def test_a_class_that_only_the_test_set_has_is_refused(workdir, tmp_path):
    train = tmp_path / "train.txt"
    train.write_text(f"{workdir.parent / 'train' / 'dark' / '0.png'}\tdark\n")
    with pytest.raises(ValueError, match="1 classes and 2; missing .*: light"):
        supervised.open_pair(
            f"list:{train}", f"folder:{workdir.parent / 'test'}"
        )
