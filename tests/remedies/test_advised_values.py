"""Values that a refused configuration is advised: following them ends well.

Random configurations of every method, most of them wrong in several ways at a
time. A refusal that names values is followed as it is printed, and must not be
met again.
"""

import re

import numpy as np
import pytest

from moco_tf import config as configs
from moco_tf import plan
from tests.remedies import following

VALUES = {
    "train.batch_size": [1, 2, 3, 4, 6, 8, 12, 16, 64, 256],
    "train.micro_batches": [1, 1, 2, 3, 4],
    "train.epochs": [1, 2, 3, 10, 200],
    "model.bn_groups": [1, 1, 2, 3, 4, 8],
    "model.sync_bn": ["false", "true"],
    "model.patch": [0, 2, 7, 16, 64],
    "model.dim": [1, 2, 128],
    "data.image_size": [8, 9, 32, 33, 64, 224],
    "data.small_views": [0, 0, 2],
    "data.small_size": [8, 32, 96, 300],
    "data.small_scale": ["0.05,0.14", "0.5", "0.4,0.2"],
    "schedule.name": ["cosine", "step"],
    "schedule.milestones": ["", "1,2", "120,160", "5,3"],
    "schedule.warmup_epochs": [0, 1, 5, 10],
    "knn.bank": ["", "folder:a"],
    "moco.queue_size": [1, 5, 64, 100, 4096],
    "memory_bank.negatives": [1, 64, 4096],
    "cmc.negatives": [1, 64, 4096],
    "swav.queue_size": [0, 1, 64, 100],
    "swav.prototypes": [1, 30],
    "cpc.rows": [1, 3, 9],
    "dino.outputs": [1, 64],
    "moco.temperature": [0.07, 1e-9],
    "moco.shuffle": ["auto", "address", "gather", "none"],
}
PRESETS = sorted(set(configs.names()) - {"quickstart"})
_ROUNDS = 12


def alternatives(text):
    """The alternatives of a message, each a dict of field -> text."""
    return [
        {name: value.replace("SOURCE", "a") for name, value in choice.items()}
        for choice in following.advised(text)
    ]


def rule(text):
    """The beginning of a message: what is asked for, without the values."""
    return re.sub(r"[\d.]+", "#", text.partition("Received")[0])


def refused(name, fields, replicas):
    """The refusal of a configuration, or ""."""
    try:
        plan.check(configs.load(name, fields), replicas)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", PRESETS)
def test_advised_values_are_taken(name):
    random = np.random.default_rng(len(name))
    method = configs.load(name).method
    known = configs.flatten(configs.load(name).to_dict())
    followed = 0
    for _ in range(60):
        replicas = int(random.choice([1, 1, 2, 3, 4]))
        wrong = {
            field: str(random.choice(values))
            for field, values in VALUES.items()
            if field in known and random.random() < 0.4
        }
        fields = {"data.source": "shapes:train"} | wrong
        text = refused(name, fields, replicas)
        for _ in range(_ROUNDS):
            options = alternatives(text)
            if not options:
                break
            for option in options:
                again = refused(name, fields | option, replicas)
                assert rule(again) != rule(text), (replicas, wrong, text, again)
                followed += 1
            fields |= options[0]
            text = refused(name, fields, replicas)
        else:
            raise AssertionError((replicas, wrong, text))
    assert followed > 5, method
