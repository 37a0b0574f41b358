"""What is advised for groups, small views and schedules, over their ranges."""

import pytest

from moco_tf import config as configs
from moco_tf import config_schema
from tests.remedies import following
from tests.remedies.configuration import check, small


# Every number of replicas, groups and parts that somebody may come with.
@pytest.mark.parametrize("sync_bn", [False, True])
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_groups_that_are_advised_are_taken_on_any_number_of_replicas(
    replicas, sync_bn
):
    refused = 0
    for batch in (1, 2, 4, 8, 12, 24):
        for groups in (1, 2, 4, 8, 12, 24):
            for parts in (1, 2, 3):
                if batch == 1 and groups + parts > 2:
                    continue  # two things are wrong, and said in turn
                fields = small(batch, groups, train__micro_batches=parts)
                fields["model.sync_bn"] = str(sync_bn).lower()
                fields["moco.queue_size"] = 4096
                config = configs.load("moco_cifar10", _texts(fields))
                try:
                    _relations(config, replicas)
                except ValueError as error:
                    for remedy in following.advised(str(error)):
                        refused += 1
                        config = configs.load(
                            "moco_cifar10", _texts(fields | remedy)
                        )
                        try:
                            _relations(config, replicas)
                        except ValueError as again:
                            raise AssertionError(
                                f"{fields}: {error}"
                            ) from again
    assert refused


def _texts(fields):
    return {name: str(value) for name, value in fields.items()}


def _relations(config, replicas):
    config.data.source = "shapes:train"
    config_schema.check_relations(config, replicas)


@pytest.mark.parametrize("size", [8, 9, 16, 17, 224])
@pytest.mark.parametrize("small_size", [8, 96, 300])
def test_small_views_that_are_advised_are_taken(size, small_size):
    fields = {"data.image_size": size, "data.small_size": small_size}
    try:
        check("swav_imagenet", fields)
    except ValueError as error:
        remedies = following.advised(str(error))
        assert remedies
        for remedy in remedies:
            check("swav_imagenet", fields | remedy)
    else:
        assert small_size < size


@pytest.mark.parametrize("epochs", range(1, 12))
def test_schedules_that_are_advised_are_taken(epochs):
    for fields in (
        {"train.epochs": epochs, "schedule.warmup_epochs": 11},
        {"train.epochs": epochs, "schedule.milestones": "12,14"},
    ):
        with pytest.raises(ValueError, match="Pass") as caught:
            check("moco_v1_imagenet", fields)
        (remedy,) = following.advised(str(caught.value))
        if "schedule.warmup_epochs" in fields:
            remedy["schedule.name"] = "cosine"
        check("moco_v1_imagenet", fields | remedy)
