r"""CPC v1 on images, ResNet-101 on patches, ImageNet (arXiv:1807.03748).

moco-tf pretrain --config=cpc_imagenet --workdir=runs/cpc \
    --config.data.source=folder:/data/imagenet/train

Published: 48.7 % top-1 of a linear classifier, with the first three stages of a
ResNet v2. The paper does not give the epochs, the width of the context or the
number of negatives; those here are ours.
"""

from moco_tf import config as configs


def get_config():
    """What the paper gives, Sec. 3.2, and what it leaves open."""
    config = configs.base("cpc")
    config.data.views = "cpc"  # 256 of 300 pixels a side, flip; grey patches
    config.data.image_size = 256
    config.model.backbone = "resnet101"
    config.model.input = "grid"  # 7 x 7 patches
    config.model.patch = 64  # pixels; patches overlap by half
    config.model.norm = "layer"  # bn_groups: replicas at most, of no other use
    config.model.dim = 256  # 2048 -> 256, of each patch
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 2e-4
    config.optimizer.weight_decay = 0.0
    config.schedule.milestones = ()  # none: the rate stays
    config.train.batch_size = 512
    return config
