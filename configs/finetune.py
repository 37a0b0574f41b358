r"""Fine-tuning of a whole network from an encoder, or from random weights.

moco-tf finetune --workdir=RUN --config.data.labels=0.01
moco-tf finetune --workdir=RUN --config.data.labels=0.01 \
    --config.model.init=random --output=RUN/scratch

BatchNorm is synchronised over the replicas, and the new head has one too, as
in MoCo's transfer experiments (arXiv:1911.05722, Sec. 4.2).
"""

import ml_collections


def get_config():
    """Every hyper-parameter."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # also chooses the labelled images

    config.data = data = ml_collections.ConfigDict()
    data.train = ""  # labelled source; "" = the run's knn.bank
    data.test = ""  # labelled source; "" = the run's knn.query
    data.labels = 1.0  # share of the training images, as many of each class
    data.holdout = 0.0  # of those, for early stopping; 0 = none
    data.crop = 0.08  # smallest share of the image that a random crop takes
    data.max_corrupt_fraction = 0.01  # of samples seen; above, the run stops
    data.threads = 0  # 0 = all cores

    config.model = model = ml_collections.ConfigDict()
    model.init = "encoder"  # "random": the same training from scratch
    model.sync_bn = True  # statistics of the global batch
    model.head_bn = True  # BatchNorm before the classifier

    config.augment = augment = ml_collections.ConfigDict()
    augment.rand_augment = 0.0  # magnitude in 0..1; 0 = off
    augment.mixup = 0.0  # alpha of the Beta distribution; 0 = off
    augment.cutmix = 0.0  # alpha of the Beta distribution; 0 = off

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.learning_rate = 0.01  # of the backbone
    optimizer.head_factor = 3.0  # the head's rate is as many times larger
    optimizer.momentum = 0.9
    optimizer.weight_decay = 1e-4

    config.schedule = schedule = ml_collections.ConfigDict()
    schedule.name = "cosine"
    schedule.milestones = (30, 40)  # epochs; of the step schedule only
    schedule.factor = 0.1  # of the step schedule only
    schedule.warmup_epochs = 0
    schedule.unit = "step"

    config.train = train = ml_collections.ConfigDict()
    train.batch_size = 64
    train.epochs = 50
    train.precision = "run"  # of the pre-training; or float32, mixed_bfloat16
    train.label_smoothing = 0.0
    train.early_stopping = 0  # epochs with none better; 0 = off

    config.log = log = ml_collections.ConfigDict()
    log.every_steps = 50
    return config
