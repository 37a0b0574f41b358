r"""BYOL, ResNet-50, ImageNet, 1,000 epochs (arXiv:2006.07733).

moco-tf pretrain --config=byol_imagenet --workdir=runs/byol \
    --config.data.source=folder:/data/imagenet/train

Published: 74.3 % top-1 of a linear classifier. The published setting for 300
epochs (72.5 %) has learning_rate 0.3, weight_decay 1e-6 and momentum 0.99.
"""

from moco_tf import config as configs


def get_config():
    """The paper's hyper-parameters, section 3.3 and Table 6."""
    config = configs.base("byol")
    config.data.views = "byol"  # blur 1.0 / 0.1, solarise 0 / 0.2
    config.model.head = "byol"  # 2048 -> 4096, BatchNorm, ReLU, 256
    config.model.hidden = 4096  # of the projector and the predictor
    config.model.dim = 256
    config.model.bn_groups = 1
    config.model.sync_bn = True  # statistics of all replicas' images
    config.optimizer.name = "lars"
    config.optimizer.learning_rate = 0.2  # for batch 256
    config.optimizer.scaling = "linear"
    config.optimizer.weight_decay = 1.5e-6  # not of biases and BatchNorm
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 10
    config.schedule.unit = "step"  # the rate changes at every step
    config.train.batch_size = 4096
    config.train.epochs = 1000
    return config
