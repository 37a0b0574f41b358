r"""BYOL, ResNet-18, CIFAR-10: a small analogue, not from the paper.

moco-tf pretrain --config=byol_cifar10 --workdir=runs/byol_cifar10 \
    --config.data.source=tfds:cifar10/train

The paper has no CIFAR-10; views, batch and length are those of MoCo's and
SimCLR's recipes for it. No result is published for these settings.
"""

from moco_tf import config as configs


def get_config():
    """BYOL's network on the small recipes' data and schedule."""
    config = configs.base("byol")
    config.data.views = "cifar"  # crop from 8 %, flip, jitter, grey; no blur
    config.data.image_size = 32
    config.data.small_size = 16
    config.model.backbone = "resnet18"
    config.model.stem = "cifar"  # 3x3 convolution, stride 1, no pooling
    config.model.head = "byol"  # 512 -> 1024, BatchNorm, ReLU, 256
    config.model.hidden = 1024  # of the projector and the predictor
    config.model.dim = 256
    config.model.bn_groups = 1
    config.model.sync_bn = True  # statistics of all replicas' images
    config.byol.momentum = 0.99  # of the first step; rises to 1 by a cosine
    config.optimizer.learning_rate = 0.06  # for batch 512
    config.optimizer.weight_decay = 5e-4  # L2, of every parameter
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 10
    config.train.batch_size = 512
    config.checkpoint.every_steps = 0  # at the end of every epoch only
    config.knn.every_epochs = 1
    config.knn.batch_size = 512
    return config
