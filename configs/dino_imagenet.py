r"""DINO, ResNet-50, ImageNet, 100 epochs (arXiv:2104.14294).

moco-tf pretrain --config=dino_imagenet --workdir=runs/dino \
    --config.data.source=folder:/data/imagenet/train

The authors' command for ResNets on one machine; their published 75.3 % top-1
of a linear classifier took 800 epochs at batch 4080.

Deviation: theirs leaves biases and BatchNorm out of the weight decay, scales a
parameter's gradient down to a norm of 3, and ends at a rate of 1e-6. Here all
parameters decay, as MoCo's do, no gradient is clipped, and the rate ends at 0.
"""

from moco_tf import config as configs


def get_config():
    """The hyper-parameters of the authors' command, and its defaults."""
    config = configs.base("dino")
    config.data.views = "dino"  # BYOL's, crops of 0.14 to 1 of the area
    config.data.small_views = 8
    config.model.head = "dino"  # 2048 -> 2048, GELU, 2048, GELU, 256
    config.model.hidden = 2048
    config.model.dim = 256
    config.model.bn_groups = 1
    config.model.sync_bn = True  # statistics of all replicas' images
    config.optimizer.scaling = "linear"  # the rate 0.03 is for batch 256
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 10
    config.schedule.unit = "step"  # the rate changes at every step
    config.train.batch_size = 512
    config.train.epochs = 100
    return config
