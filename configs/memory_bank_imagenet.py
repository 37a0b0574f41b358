r"""Instance discrimination with a memory bank, ResNet-50 (arXiv:1805.01978).

moco-tf pretrain --config=memory_bank_imagenet --workdir=runs/memory_bank \
    --config.data.source=folder:/data/imagenet/train

Published: 46.8 % top-1 of the nearest neighbours (ResNet-50, 4,096 negatives,
NCE); with 65,536 negatives and loss "info_nce" 58.5 % of a linear classifier
(both of the authors' repository, zhirongw/lemniscate.pytorch).
"""

from moco_tf import config as configs


def get_config():
    """The hyper-parameters of the published command."""
    config = configs.base("memory_bank")
    # All are the base's. optimizer.learning_rate 0.03 is for batch 256; the
    # published number of BatchNorm groups is unknown.
    return config
