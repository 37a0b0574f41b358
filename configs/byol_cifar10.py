r"""BYOL, ResNet-18, CIFAR-10: a small analogue, not from the paper.

moco-tf pretrain --config=byol_cifar10 --workdir=runs/byol_cifar10 \
    --config.data.source=tfds:cifar10/train

The paper has no CIFAR-10; views, batch and length are those of MoCo's and
SimCLR's recipes for it. No result is published for these settings.
"""

import ml_collections


def get_config():
    """BYOL's network on the small recipes' data and schedule."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.method = "byol"

    config.data = data = ml_collections.ConfigDict()
    data.source = ""  # folder:DIR, list:FILE, tfds:NAME/SPLIT, shapes:train
    data.views = "cifar"  # crop from 8 %, flip, jitter, grey; no blur
    data.strength = 1.0  # of the colour jitter
    data.image_size = 32  # pixels
    data.small_views = 0  # of multi-crop, beside the two large ones
    data.small_size = 16  # pixels
    data.small_scale = (0.05, 0.14)  # shares of the area that one shows
    data.max_corrupt_fraction = 0.01  # of samples seen; above, the run stops
    data.threads = 0  # 0 = all cores
    data.augment_on = "host"  # "device": colour and blur run in the step

    config.model = model = ml_collections.ConfigDict()
    model.backbone = "resnet18"
    model.input = "rgb"
    model.patch = 0  # pixels, of the input "grid"
    model.norm = "batch"
    model.width = 1.0
    model.stem = "cifar"  # 3x3 convolution, stride 1, no pooling
    model.head = "byol"  # 512 -> 1024, BatchNorm, ReLU, 256
    model.hidden = 1024  # of the projector and the predictor
    model.dim = 256
    model.bn_groups = 1
    model.sync_bn = True  # statistics of all replicas' images
    model.recompute = False  # True: less memory, a slower step

    config.byol = byol = ml_collections.ConfigDict()
    byol.momentum = 0.99  # of the first step; rises to 1 by a cosine

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "sgd"
    optimizer.learning_rate = 0.06  # for batch 512
    optimizer.scaling = "none"
    optimizer.momentum = 0.9
    optimizer.weight_decay = 5e-4  # L2, of every parameter

    config.schedule = schedule = ml_collections.ConfigDict()
    schedule.name = "cosine"
    schedule.milestones = (120, 160)  # epochs; of the step schedule only
    schedule.factor = 0.1  # of the step schedule only
    schedule.warmup_epochs = 10
    schedule.unit = "epoch"  # the rate changes between epochs only
    schedule.first_epoch = 0

    config.train = train = ml_collections.ConfigDict()
    train.batch_size = 512  # of all replicas together
    train.epochs = 200
    train.max_steps = 0  # 0 = all; else stops there, on the same schedule
    train.micro_batches = 1  # of one step; more: less memory
    train.precision = "float32"  # "mixed_bfloat16" is faster
    train.jit_compile = False  # True: the encoders under XLA
    train.tf32 = False

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_steps = 0  # at the end of every epoch only
    checkpoint.keep = 2

    config.knn = knn = ml_collections.ConfigDict()
    knn.bank = ""  # labelled source, as folder:DIR/train; "" = no kNN
    knn.query = ""  # labelled source, as folder:DIR/test
    knn.every_epochs = 1
    knn.k = 200
    knn.temperature = 0.1
    knn.features = "backbone"  # decides which checkpoint is best
    knn.batch_size = 512
    knn.baseline = False  # first also raw pixels and the untrained encoder

    config.log = log = ml_collections.ConfigDict()
    log.every_steps = 50
    log.tensorboard = True
    return config
