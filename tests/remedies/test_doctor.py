"""What `doctor` suggests is a configuration that it has nothing against."""

import itertools

import pytest

from moco_tf import plan
from moco_tf.doctor import table
from moco_tf.methods import table as methods
from tests.remedies import doctor

PRESETS = sorted(
    {preset for entry in methods.METHODS.values() for preset in entry.configs}
)


def suggest(preset, fields, count, side, replicas):
    """The fields that the rows about a recipe suggest."""
    rows = doctor.training(count, preset, fields, replicas)
    rows = doctor.sizes(side, preset=preset, fields=fields) + rows
    words = table.flags(table.overrides(rows))
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
        # Two rounds: another batch has another queue, rate and groups.
        changes |= suggest(preset, fields | changes, count, side, replicas)
        suggested += bool(changes)
        fields |= changes
        try:
            plan.check(doctor.config_of(preset, fields), replicas)
        except ValueError as error:
            message = f"{count} images of {side} px, {replicas}, {changes}"
            raise AssertionError(message) from error
    assert suggested
