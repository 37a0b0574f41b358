r"""MoCo v1, ResNet-50, ImageNet, 200 epochs (arXiv:1911.05722).

moco-tf pretrain --config=moco_v1_imagenet --workdir=runs/moco_v1 \
    --config.data.source=folder:/data/imagenet/train

Published: 60.8 +- 0.2 % top-1 of a linear classifier on the frozen backbone
(five runs; 53 hours of pre-training on 8 V100 GPUs).
"""

from moco_tf import config as configs


def get_config():
    """The defaults of the published code, which are the base's."""
    config = configs.base("moco")
    # Four values of the base, repeated here because they are what v2 changes.
    config.data.views = "v1"  # crop, grey, jitter (always), flip
    config.model.head = "fc"  # 2048 -> 128
    config.moco.temperature = 0.07
    config.schedule.name = "step"  # rate 0.03 (batch 256), x0.1 at 120 and 160
    return config
