r"""SimCLR, ResNet-18, CIFAR-10, 1,000 epochs (google-research/simclr).

moco-tf pretrain --config=simclr_cifar10 --workdir=runs/simclr_cifar10 \
    --config.data.source=tfds:cifar10/train

Published: about 91 % top-1 of a linear classifier after 1,000 epochs, by the
command in the README of google-research/simclr.
"""

from moco_tf import config as configs


def get_config():
    """The hyper-parameters of the published command."""
    config = configs.base("simclr")
    config.data.views = "cifar"  # SimCLR's at strength 0.5, without blur
    config.data.image_size = 32
    config.data.small_size = 16
    config.model.backbone = "resnet18"
    config.model.stem = "cifar"  # 3x3 convolution, stride 1, no pooling
    config.model.head = "simclr"  # 512 -> 512, BN, ReLU, 128, BN
    config.model.bn_groups = 1
    config.model.sync_bn = True  # statistics of all replicas' images
    config.simclr.temperature = 0.5
    config.optimizer.name = "lars"  # decays no biases and no BatchNorm
    config.optimizer.learning_rate = 1.0  # for batch 256
    config.optimizer.scaling = "linear"
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 10
    config.schedule.unit = "step"  # the rate changes at every step
    config.train.batch_size = 512
    config.train.epochs = 1000
    config.checkpoint.every_steps = 0  # at the end of every epoch only
    config.knn.every_epochs = 1
    config.knn.batch_size = 512
    return config
