"""A ResNet-18 of few blocks where tests need any network: traced much sooner.

python -m tests.shallow COMMAND ...    is `moco-tf COMMAND ...` with one
"""

import contextlib
import signal
import sys
from unittest import mock

import pytest

from moco_tf.cli import main as cli
from moco_tf.models import resnet

ONE_BLOCK = (1,)  # of one stage; no convolution has a stride


@contextlib.contextmanager
def network(blocks=(1, 1)):
    """Other stages than ResNet-18's four of two blocks.

    Args:
      blocks: of each stage; weights leave for other programs from four stages.
    """
    with mock.patch.dict(resnet.DEPTHS, {18: (blocks, False)}):
        yield


def fixture(blocks=(1, 1)):
    """A fixture that gives all tests of a module such a network."""

    @pytest.fixture(scope="module", autouse=True)
    def made():
        with network(blocks):
            yield

    return made


if __name__ == "__main__":
    # What a shell starts in the background begins deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with network(ONE_BLOCK):
        sys.exit(cli.run())
