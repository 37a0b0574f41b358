"""What `doctor` suggests is a configuration that it has nothing against."""

import itertools

import pytest

from moco_tf import plan
from moco_tf.doctor import rules, table
from moco_tf.methods import table as methods
from tests.remedies import doctor

PRESETS = sorted(
    {preset for entry in methods.METHODS.values() for preset in entry.configs}
)


def suggest(preset, fields, count, side, replicas):
    """The fields that the doctor suggests, of devices with memory enough."""
    facts = rules.Facts(count, side, side**2, replicas=replicas)
    config = doctor.config_of(preset, fields)
    words = table.flags(rules.settle(config, facts, None).changes)
    return dict(word.removeprefix("--config.").split("=") for word in words)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_suggested_can_be_trained(preset):
    config = doctor.config_of(preset)
    suggested = 0
    for batch, replicas, count, side in itertools.product(
        (0, 16), (1, 8), (20, 300, 5000), (20, 50)
    ):
        fields = {}
        if batch:
            groups = 1 if config.model.sync_bn else replicas
            fields = {"train.batch_size": batch, "model.bn_groups": groups}
        try:
            plan.check(doctor.config_of(preset, fields), replicas)
        except ValueError:
            continue  # doctor says so, and looks no further
        changes = suggest(preset, fields, count, side, replicas)
        suggested += bool(changes)
        fields |= changes
        try:
            plan.check(doctor.config_of(preset, fields), replicas)
        except ValueError as error:
            message = f"{count} images of {side} px, {replicas}, {changes}"
            raise AssertionError(message) from error
        assert suggest(preset, fields, count, side, replicas) == {}
    assert suggested
