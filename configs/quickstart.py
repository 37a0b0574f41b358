"""MoCo on the embedded images, small enough for two CPU cores.

launch/quickstart.sh, or
moco-tf pretrain --config=quickstart --workdir=runs/quickstart

Needs no data and no network. Expected kNN (backbone, k 200, T 0.1): raw pixels
34 %, untrained encoder about 38 %, trained above 50 %.
"""

from moco_tf import config as configs


def get_config():
    """What learns fast on a small set; not a published setting."""
    config = configs.base("moco")
    config.data.source = "shapes:train"  # 20,000 rendered scenes, 10 classes
    # The base's views "v1" jitter always, hue 0.4: texture tells more than
    # colour.
    config.data.image_size = 64
    config.data.small_size = 32
    config.model.backbone = "resnet18"
    config.model.width = 0.25  # a quarter of the channels
    config.model.head = "mlp"  # 128 -> 128, ReLU, 128 -> 128
    config.model.bn_groups = 2  # of 64 images
    config.moco.queue_size = 1024
    config.moco.momentum = 0.996
    config.moco.temperature = 0.1
    config.optimizer.learning_rate = 0.06
    config.schedule.name = "cosine"
    config.schedule.unit = "step"  # few epochs: the rate changes at every step
    config.train.batch_size = 128
    config.train.epochs = 7
    config.checkpoint.every_steps = 0  # at the end of every epoch only
    config.knn.bank = "shapes:train"
    config.knn.query = "shapes:test"
    config.knn.every_epochs = 1
    config.knn.baseline = True  # first also raw pixels, untrained encoder
    config.log.every_steps = 39
    return config
