r"""MoCo v2, ResNet-50, ImageNet, 200 epochs (arXiv:2003.04297).

moco-tf pretrain --config=moco_v2_imagenet --workdir=runs/moco_v2 \
    --config.data.source=folder:/data/imagenet/train

Published: 67.5 +- 0.1 % top-1 of a linear classifier on the frozen backbone
(five runs; 53 hours of pre-training on 8 V100 GPUs); 71.1 % with
--config.train.epochs=800.
"""

import ml_collections


def get_config():
    """Every hyper-parameter of the published code's v2 flags."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.method = "moco"

    config.data = data = ml_collections.ConfigDict()
    data.source = ""  # folder:DIR, list:FILE, tfds:NAME/SPLIT, shapes:train
    data.views = "v2"  # v1 with weaker hue, jitter in 80 %, and blur
    data.strength = 1.0  # of the colour jitter
    data.image_size = 224  # pixels
    data.small_views = 0  # of multi-crop, beside the two large ones
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
    model.head = "mlp"  # 2048 -> 2048, ReLU, 2048 -> 128
    model.hidden = 0  # of the head; 0 = as wide as the features
    model.dim = 128
    model.bn_groups = 8  # of the global batch: 8 GPUs of 32 images each
    model.sync_bn = False  # True: over all replicas, with bn_groups 1
    model.recompute = False  # True: less memory, a slower step

    config.moco = moco = ml_collections.ConfigDict()
    moco.queue_size = 65536
    moco.momentum = 0.999
    moco.temperature = 0.2
    moco.symmetric = False
    moco.mask_same_image = False  # True for small data: see docs/health.md
    moco.shuffle = "auto"  # "address" on one host, "gather" across hosts

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "sgd"
    optimizer.learning_rate = 0.03  # for batch 256
    optimizer.scaling = "none"  # "linear": x batch / 256; "sqrt": x sqrt(batch)
    optimizer.momentum = 0.9
    optimizer.weight_decay = 1e-4  # L2, of every parameter

    config.schedule = schedule = ml_collections.ConfigDict()
    schedule.name = "cosine"
    schedule.milestones = (120, 160)  # epochs; of the step schedule only
    schedule.factor = 0.1  # of the step schedule only
    schedule.warmup_epochs = 0
    schedule.unit = "epoch"  # the rate changes between epochs only
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
