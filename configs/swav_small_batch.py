r"""SwAV with batch 256, ResNet-50, ImageNet, 200 epochs (arXiv:2006.09882).

moco-tf pretrain --config=swav_small_batch --workdir=runs/swav \
    --config.data.source=folder:/data/imagenet/train

Published: 72.7 % top-1 of a linear classifier. The published rate ends at
0.0006; this schedule ends at 0.
"""

import ml_collections


def get_config():
    """Every hyper-parameter of the authors' script for 4 GPUs."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.method = "swav"

    config.data = data = ml_collections.ConfigDict()
    data.source = ""  # folder:DIR, list:FILE, tfds:NAME/SPLIT, shapes:train
    data.views = "swav"  # SimCLR's at strength 1, crops from 0.14 of the area
    data.strength = 1.0  # of the colour jitter
    data.image_size = 224  # pixels
    data.small_views = 6  # of multi-crop, beside the two large ones
    data.small_size = 96  # pixels
    data.small_scale = (0.05, 0.14)  # shares of the area that one shows
    data.max_corrupt_fraction = 0.01  # of samples seen; above, the run stops
    data.threads = 0  # 0 = all cores
    data.augment_on = "host"  # "device": colour and blur run in the step

    config.model = model = ml_collections.ConfigDict()
    model.backbone = "resnet50"
    model.input = "rgb"
    model.patch = 0  # pixels, of the input "grid"
    model.norm = "batch"
    model.width = 1.0
    model.stem = "imagenet"  # 7x7 convolution, stride 2, and max pooling
    model.head = "swav"  # 2048 -> 2048, BatchNorm, ReLU, 128
    model.hidden = 2048
    model.dim = 128
    model.bn_groups = 1
    model.sync_bn = True  # statistics of all replicas' images
    model.recompute = False  # True: less memory, a slower step

    config.swav = swav = ml_collections.ConfigDict()
    swav.prototypes = 3000
    swav.temperature = 0.1
    swav.epsilon = 0.03
    swav.iterations = 3  # of Sinkhorn-Knopp
    swav.queue_size = 3840  # features that help to make codes; 0 = none
    swav.queue_from_epoch = 15
    swav.frozen_epochs = 1  # prototypes do not learn in them

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "lars"
    optimizer.learning_rate = 0.6
    optimizer.scaling = "none"
    optimizer.momentum = 0.9
    optimizer.weight_decay = 1e-6  # not of biases and BatchNorm

    config.schedule = schedule = ml_collections.ConfigDict()
    schedule.name = "cosine"
    schedule.milestones = (120, 160)  # epochs; of the step schedule only
    schedule.factor = 0.1  # of the step schedule only
    schedule.warmup_epochs = 0
    schedule.unit = "step"  # the rate changes at every step
    schedule.first_epoch = 0

    config.train = train = ml_collections.ConfigDict()
    train.batch_size = 256  # of all replicas together
    train.epochs = 200
    train.max_steps = 0  # 0 = all; else stops there, on the same schedule
    train.micro_batches = 1  # of one step; more: less memory
    train.precision = "float32"  # "mixed_bfloat16" is faster
    train.jit_compile = False  # True: the encoders under XLA
    train.tf32 = False

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_steps = 1000  # and at the end of every epoch
    checkpoint.keep = 2

    config.knn = knn = ml_collections.ConfigDict()
    knn.bank = ""  # labelled source, as folder:/data/imagenet/train; "" = none
    knn.query = ""  # labelled source, as folder:/data/imagenet/val
    knn.every_epochs = 5
    knn.k = 200
    knn.temperature = 0.1
    knn.features = "backbone"  # decides which checkpoint is best
    knn.batch_size = 256
    knn.baseline = False  # first also raw pixels and the untrained encoder

    config.log = log = ml_collections.ConfigDict()
    log.every_steps = 50
    log.tensorboard = True
    return config
