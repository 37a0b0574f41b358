"""MoCo on the embedded images, small enough for two CPU cores.

launch/quickstart.sh, or
moco-tf pretrain --config=quickstart --workdir=runs/quickstart

Needs no data and no network. Expected kNN (backbone, k 200, T 0.1): raw pixels
34 %, untrained encoder 32 to 39 %, trained above 75 %.
"""

from moco_tf import config as configs


def get_config():
    """Not a published setting: docs/results/quickstart.md has the reasons."""
    config = configs.base("moco")
    config.data.source = "shapes:train"  # 20,000 rendered scenes, 10 classes
    config.data.image_size = 64
    config.data.small_size = 32
    config.model.backbone = "resnet18"
    config.model.width = 0.25  # a quarter of the channels
    config.model.head = "simclr"  # an MLP with BatchNorm: 128, ReLU, 128
    config.model.bn_groups = 2  # of 64 images
    config.moco.queue_size = 256  # the keys of the step before
    config.moco.batch_negatives = True  # and those of the step itself
    config.moco.symmetric = True  # each view is query and key once
    config.moco.momentum = 0.99
    config.moco.momentum_warmup_epochs = 4  # from 0 on
    config.moco.temperature = 0.1
    config.optimizer.learning_rate = 0.06
    config.schedule.name = "cosine"
    config.schedule.unit = "step"  # few epochs: the rate changes at every step
    config.schedule.warmup_epochs = 1  # at full rate some seeds begin badly
    config.train.batch_size = 128
    config.train.epochs = 4
    config.checkpoint.every_steps = 0  # at the end of every epoch only
    config.knn.bank = "shapes:train"
    config.knn.query = "shapes:test"
    config.knn.every_epochs = 1
    config.log.every_steps = 39
    return config
