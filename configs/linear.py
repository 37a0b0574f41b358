r"""A linear classifier on a frozen encoder.

moco-tf linear --workdir=RUN                                  (minutes)
moco-tf linear --workdir=RUN --config.probe.way=published     (hours)

The published protocol (MoCo v1, Sec. 4.1, and its code): SGD at rate 30, no
weight decay, x0.1 at 60 and 80 of 100 epochs, batch 256, random crop and flip,
weights from N(0, 0.01). Published, ResNet-50 on ImageNet: MoCo v1 60.6 %, v2
67.5 % (200 epochs), 71.1 % (800 epochs).
"""

import ml_collections


def get_config():
    """Every hyper-parameter of the protocol."""
    config = ml_collections.ConfigDict()
    config.seed = 0

    config.data = data = ml_collections.ConfigDict()
    data.train = ""  # labelled source; "" = the run's knn.bank
    data.test = ""  # labelled source; "" = the run's knn.query
    data.crop = 0.08  # smallest share of the image that a random crop takes
    data.max_corrupt_fraction = 0.01  # of samples seen; above, the run stops
    data.threads = 0  # 0 = all cores

    config.probe = probe = ml_collections.ConfigDict()
    probe.way = "cached"  # features once; "published": a new crop every epoch
    probe.features = "backbone"  # "projection": the head's output
    probe.rates = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # cached way
    probe.holdout = 0.1  # of the training images, to choose the rate
    probe.views = 0  # random crops of each image to cache; 0 = the plain view

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.learning_rate = 30.0  # of the published way
    optimizer.momentum = 0.9
    optimizer.weight_decay = 0.0

    config.schedule = schedule = ml_collections.ConfigDict()
    schedule.name = "step"
    schedule.milestones = (60, 80)  # epochs
    schedule.factor = 0.1
    schedule.warmup_epochs = 0
    schedule.unit = "epoch"

    config.train = train = ml_collections.ConfigDict()
    train.batch_size = 256
    train.epochs = 100

    config.log = log = ml_collections.ConfigDict()
    log.every_steps = 50
    return config
