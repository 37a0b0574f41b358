r"""A linear classifier on a frozen encoder.

moco-tf linear --workdir=RUN                                  (minutes)
moco-tf linear --workdir=RUN --config.probe.way=published     (hours)

The published protocol (MoCo v1, Sec. 4.1, and its code): SGD at rate 30, no
weight decay, x0.1 at 60 and 80 of 100 epochs, batch 256, random crop and flip,
weights from N(0, 0.01). Published, ResNet-50 on ImageNet: MoCo v1 60.6 %, v2
67.5 % (200 epochs), 71.1 % (800 epochs).
"""

from moco_tf import config as configs


def get_config():
    """The protocol, every value as LINEAR of _base.py has it."""
    return configs.base("linear")
