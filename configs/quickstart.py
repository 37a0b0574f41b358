"""MoCo on the embedded images, small enough for two CPU cores.

launch/quickstart.sh, or
moco-tf pretrain --config=quickstart --workdir=runs/quickstart

Needs no data and no network. Expected kNN (backbone, k 200, T 0.1): raw pixels
34 %, untrained encoder about 38 %, trained above 50 %.
"""

import ml_collections


def get_config():
    """What learns fast on a small set; not a published setting."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.method = "moco"

    config.data = data = ml_collections.ConfigDict()
    data.source = "shapes:train"  # 20,000 rendered scenes, 10 classes
    data.views = "v1"  # jitter always, hue 0.4: texture tells more than colour
    data.strength = 1.0  # of the colour jitter
    data.image_size = 64  # pixels
    data.small_views = 0  # of multi-crop, beside the two large ones
    data.small_size = 32  # pixels
    data.small_scale = (0.05, 0.14)  # shares of the area that one shows
    data.max_corrupt_fraction = 0.01  # of samples seen; above, the run stops
    data.threads = 0  # 0 = all cores
    data.augment_on = "host"  # "device": colour and blur run in the step

    config.model = model = ml_collections.ConfigDict()
    model.backbone = "resnet18"
    model.input = "rgb"
    model.patch = 0  # pixels, of the input "grid"
    model.norm = "batch"
    model.width = 0.25  # a quarter of the channels
    model.stem = "imagenet"  # 7x7 convolution, stride 2, and max pooling
    model.head = "mlp"  # 128 -> 128, ReLU, 128 -> 128
    model.hidden = 0  # of the head; 0 = as wide as the features
    model.dim = 128
    model.bn_groups = 2  # of 64 images
    model.sync_bn = False  # True: over all replicas, with bn_groups 1
    model.recompute = False  # True: less memory, a slower step

    config.moco = moco = ml_collections.ConfigDict()
    moco.queue_size = 1024
    moco.momentum = 0.996
    moco.temperature = 0.1
    moco.symmetric = False
    moco.mask_same_image = False  # True for small data: see docs/health.md
    moco.shuffle = "auto"  # "address" on one host, "gather" across hosts

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "sgd"
    optimizer.learning_rate = 0.06
    optimizer.scaling = "none"  # "linear": x batch / 256; "sqrt": x sqrt(batch)
    optimizer.momentum = 0.9
    optimizer.weight_decay = 1e-4  # L2, of every parameter

    config.schedule = schedule = ml_collections.ConfigDict()
    schedule.name = "cosine"
    schedule.milestones = (120, 160)  # epochs; of the step schedule only
    schedule.factor = 0.1  # of the step schedule only
    schedule.warmup_epochs = 0
    schedule.unit = "step"  # few epochs: the rate changes at every step
    schedule.first_epoch = 0

    config.train = train = ml_collections.ConfigDict()
    train.batch_size = 128  # of all replicas together
    train.epochs = 7
    train.max_steps = 0  # 0 = all; else stops there, on the same schedule
    train.micro_batches = 1  # of one step; more: less memory
    train.precision = "float32"  # "mixed_bfloat16" is faster
    train.jit_compile = False  # True: the encoders under XLA
    train.tf32 = False

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_steps = 0  # at the end of every epoch only
    checkpoint.keep = 2

    config.knn = knn = ml_collections.ConfigDict()
    knn.bank = "shapes:train"
    knn.query = "shapes:test"
    knn.every_epochs = 1
    knn.k = 200
    knn.temperature = 0.1
    knn.features = "backbone"  # decides which checkpoint is best
    knn.batch_size = 256
    knn.baseline = True  # first also raw pixels and the untrained encoder

    config.log = log = ml_collections.ConfigDict()
    log.every_steps = 39
    log.tensorboard = True
    return config
