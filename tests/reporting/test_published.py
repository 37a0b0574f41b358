import pytest

from moco_tf import config as configs
from moco_tf.reporting import published


def _config(**fields):
    values = {key.replace("__", "."): str(v) for key, v in fields.items()}
    return configs.load("moco_cifar10", values)


@pytest.mark.parametrize(
    "source, is_cifar10",
    [
        ("tfds:cifar10/train", True),
        ("folder:/data/CIFAR-10/train", True),
        ("tfds:cifar10/train[:90%]@/data/sets", True),
        ("tfds:cifar10:3.0.2/train", True),
        ("tfds:/data/tfds/cifar10/3.0.2/train", True),
        ("tfds:cifar10/train+test", True),
        ("prepared:/data/cifar10-prepared", True),
        ("prepared:my@cache/cifar10_224", True),
        ("folder:/data/cifar10.1/images", False),
        ("list:lists/cifar_10.train.txt", True),
        ("prepared:/cache/cifar10_jpeg", True),
        ("tfds:cifar100/train", False),
        ("tfds:cifar10_1/test", False),
        ("tfds:cifar10_corrupted/x", False),
        ("folder:/home/me/moco-cifar10/photos/cats", False),
        ("folder:/data/cifar10/photos", False),
        ("shapes:train", False),
    ],
)
def test_the_data_are_known_by_name(source, is_cifar10):
    assert published.is_cifar10(_config(data__source=source)) == is_cifar10


def test_the_data_are_known_by_their_class_folders(tmp_path):
    config = _config(data__source=f"folder:{tmp_path}")
    for name in published.cifar10()["classes"]:
        assert not published.is_cifar10(config)
        (tmp_path / name).mkdir()
    (tmp_path / ".hidden").touch()
    assert published.is_cifar10(config)


def test_the_demo_departs_in_nothing():
    assert published.departures(_config()) == []


@pytest.mark.parametrize("name", ["byol_cifar10", "simclr_cifar10"])
def test_another_method_is_not_beside_the_published_curve(name):
    config = configs.load(name, {"data.source": "tfds:cifar10/train"})
    assert not published.is_cifar10(config)
    assert not published.compares_loss(config)
    assert ("moco.queue_size", 4096, None) in published.departures(config)


def test_departures_say_both_values():
    config = _config(moco__temperature=0.2, train__epochs=800)
    assert published.departures(config) == [
        ("moco.temperature", 0.1, 0.2),
        ("train.epochs", 200, 800),
    ]


def test_only_fields_that_scale_the_loss_keep_it_from_being_compared():
    assert published.compares_loss(_config(train__epochs=800))
    assert not published.compares_loss(_config(moco__queue_size=1024))
    assert not published.compares_loss(_config(moco__symmetric=True))


def test_the_band_of_knn_is_two_points_to_either_side():
    epoch, low, middle, high = published.band("knn", 2)
    assert epoch.tolist() == [1, 2]
    assert middle.tolist() == [31.98, 33.52]
    assert low.tolist() == pytest.approx([29.98, 31.52])
    assert high.tolist() == pytest.approx([33.98, 35.52])


def test_within_an_epoch_the_loss_is_on_a_straight_line():
    epoch, low, middle, high = published.band("loss", 10.5)
    assert epoch.tolist() == [*range(1, 11), 10.5]
    halfway = (5.9910 + 5.8198) / 2
    assert middle[-1] == pytest.approx(halfway)
    assert low[-1] == pytest.approx(0.95 * halfway)
    assert high[-1] == pytest.approx(1.05 * halfway)


def test_the_curve_has_the_figures_of_all_200_epochs():
    _, _, knn, _ = published.band("knn", 200)
    _, _, loss, _ = published.band("loss", 200)
    assert len(knn) == len(loss) == 200
    assert [knn[n - 1] for n in (12, 25, 100, 200)] == [
        50.84,
        65.55,
        78.06,
        82.58,
    ]
    assert [loss[n - 1] for n in (12, 25, 100, 200)] == [
        5.6121,
        3.9131,
        2.7264,
        2.2716,
    ]
    assert (knn.argmax() + 1, knn.max()) == (190, 82.73)


def test_the_band_ends_where_the_published_run_does():
    assert published.band("knn", 900)[0][-1] == 200
    assert published.band("knn", 0.3)[0].tolist() == [1]
