r"""SwAV with batch 256, ResNet-50, ImageNet, 200 epochs (arXiv:2006.09882).

moco-tf pretrain --config=swav_small_batch --workdir=runs/swav \
    --config.data.source=folder:/data/imagenet/train

Published: 72.7 % top-1 of a linear classifier. The published rate ends at
0.0006; this schedule ends at 0.
"""

from moco_tf import config as configs


def get_config():
    """The hyper-parameters of the authors' script for 4 GPUs."""
    config = configs.base("swav")
    config.data.views = "swav"  # SimCLR's at strength 1, areas from 0.14
    config.data.small_views = 6
    config.model.head = "swav"  # 2048 -> 2048, BatchNorm, ReLU, 128
    config.model.hidden = 2048
    config.model.bn_groups = 1
    config.model.sync_bn = True  # statistics of all replicas' images
    config.swav.epsilon = 0.03
    config.swav.queue_size = 3840  # features that help to make codes
    config.optimizer.name = "lars"
    config.optimizer.learning_rate = 0.6
    config.optimizer.weight_decay = 1e-6  # not of biases and BatchNorm
    config.schedule.name = "cosine"
    config.schedule.unit = "step"  # the rate changes at every step
    return config
