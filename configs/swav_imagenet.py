r"""SwAV with multi-crop, ResNet-50, ImageNet, 800 epochs (arXiv:2006.09882).

moco-tf pretrain --config=swav_imagenet --workdir=runs/swav \
    --config.data.source=folder:/data/imagenet/train

Published: 75.3 % top-1 of a linear classifier.

Deviation: the published rate begins its warm-up at 0.3 and ends at 0.0048; this
schedule begins near 0 and ends at 0.
"""

from moco_tf import config as configs


def get_config():
    """The hyper-parameters of the paper, App. A, and the authors' script."""
    config = configs.base("swav")
    config.data.views = "swav"  # SimCLR's at strength 1, areas from 0.14
    config.data.small_views = 6
    config.model.head = "swav"  # 2048 -> 2048, BatchNorm, ReLU, 128
    config.model.hidden = 2048
    config.model.bn_groups = 1
    config.model.sync_bn = True  # statistics of all replicas' images
    config.optimizer.name = "lars"
    config.optimizer.learning_rate = 4.8
    config.optimizer.weight_decay = 1e-6  # not of biases and BatchNorm
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 10
    config.schedule.unit = "step"  # the rate changes at every step
    config.train.batch_size = 4096
    config.train.epochs = 800
    return config
