r"""DINO, ResNet-50, ImageNet, 100 epochs (arXiv:2104.14294).

moco-tf pretrain --config=dino_imagenet --workdir=runs/dino \
    --config.data.source=folder:/data/imagenet/train

The authors' command for ResNets on one machine; their published 75.3 % top-1
of a linear classifier took 800 epochs at batch 4080. Their rate ends at 1e-6;
this schedule ends at 0.
"""

import ml_collections


def get_config():
    """Every hyper-parameter of the authors' command, and its defaults."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.method = "dino"

    config.data = data = ml_collections.ConfigDict()
    data.source = ""  # folder:DIR, list:FILE, tfds:NAME/SPLIT, shapes:train
    data.views = "dino"  # BYOL's, crops of 0.14 to 1 of the area
    data.strength = 1.0  # of the colour jitter
    data.image_size = 224  # pixels
    data.small_views = 8  # of multi-crop, beside the two large ones
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
    model.head = "dino"  # 2048 -> 2048, GELU, 2048, GELU, 256
    model.hidden = 2048
    model.dim = 256
    model.bn_groups = 1
    model.sync_bn = True  # statistics of all replicas' images
    model.recompute = False  # True: less memory, a slower step

    config.dino = dino = ml_collections.ConfigDict()
    dino.outputs = 65536
    dino.temperature = 0.1
    dino.teacher_temperature = 0.04  # after the warm-up
    dino.first_teacher_temperature = 0.04
    dino.warmup_epochs = 0  # in which the teacher's temperature rises
    dino.momentum = 0.996  # of the first step; rises to 1 by a cosine
    dino.center_momentum = 0.9
    dino.frozen_epochs = 1  # the last layer does not learn in them

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "sgd"
    optimizer.learning_rate = 0.03  # for batch 256
    optimizer.scaling = "linear"
    optimizer.momentum = 0.9
    optimizer.weight_decay = 1e-4  # L2, of every parameter

    config.schedule = schedule = ml_collections.ConfigDict()
    schedule.name = "cosine"
    schedule.milestones = (120, 160)  # epochs; of the step schedule only
    schedule.factor = 0.1  # of the step schedule only
    schedule.warmup_epochs = 10
    schedule.unit = "step"  # the rate changes at every step
    schedule.first_epoch = 0

    config.train = train = ml_collections.ConfigDict()
    train.batch_size = 512  # of all replicas together
    train.epochs = 100
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
