"""`python -m moco_tf COMMAND ...`; the same as the installed `moco-tf`."""

import sys

from moco_tf.cli import main as cli

if __name__ == "__main__":
    sys.exit(cli.run())
