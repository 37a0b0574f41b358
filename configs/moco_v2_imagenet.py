r"""MoCo v2, ResNet-50, ImageNet, 200 epochs (arXiv:2003.04297).

moco-tf pretrain --config=moco_v2_imagenet --workdir=runs/moco_v2 \
    --config.data.source=folder:/data/imagenet/train

Published: 67.5 +- 0.1 % top-1 of a linear classifier on the frozen backbone
(five runs; 53 hours of pre-training on 8 V100 GPUs); 71.1 % with
--config.train.epochs=800.
"""

from moco_tf import config as configs


def get_config():
    """The published code's v2 flags: four values differ from v1."""
    config = configs.base("moco")
    config.data.views = "v2"  # v1 with weaker hue, jitter in 80 %, and blur
    config.model.head = "mlp"  # 2048 -> 2048, ReLU, 2048 -> 128
    config.moco.temperature = 0.2
    config.schedule.name = "cosine"  # from rate 0.03 (batch 256)
    return config
