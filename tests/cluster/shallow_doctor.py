"""The doctor with a network of one block, but for the reference's own networks.

python -m tests.cluster.shallow_doctor --config=NAME ...    is `moco-tf doctor`
with the first of the reference's cases, whose figures are those of a ResNet-18.
"""

import functools
import sys
from unittest import mock

from moco_tf.cli import main as cli
from moco_tf.doctor import reference
from moco_tf.models import resnet
from tests import shallow


def _deep(check, depths):
    """A check that sees the networks as they are."""
    with mock.patch.dict(resnet.DEPTHS, depths):
        return check(reference.CASES[:1])


if __name__ == "__main__":
    deep = functools.partial(
        _deep, reference.check_reference, dict(resnet.DEPTHS)
    )
    with (
        shallow.network(shallow.ONE_BLOCK),
        mock.patch.object(reference, "check_reference", deep),
    ):
        sys.exit(cli.run(["doctor", *sys.argv[1:]]))
