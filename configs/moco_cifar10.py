r"""MoCo on CIFAR-10 as in the authors' demo: ResNet-18, 200 epochs.

moco-tf pretrain --config=moco_cifar10 --workdir=runs/cifar10 \
    --config.data.source=folder:DIR/train \
    --config.knn.bank=folder:DIR/train --config.knn.query=folder:DIR/test

DIR holds train/CLASS/*.png and test/CLASS/*.png (JPEG works too, and so does
tfds:cifar10/train). Published curve, kNN on the 128-d output: epoch 1: loss
6.957, 31.98 %; epoch 2: loss 7.250, 33.52 %; epoch 200: loss 2.272, 82.58 %.
Symmetric (--config.moco.symmetric=true): 85.3 % at epoch 200.
"""

import ml_collections


def get_config():
    """Every hyper-parameter of the demo."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.method = "moco"

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
    model.head = "fc"  # 512 -> 128
    model.hidden = 0  # of the head; 0 = as wide as the features
    model.dim = 128
    model.bn_groups = 8  # of 64 images, as if on 8 GPUs
    model.sync_bn = False  # True: over all replicas, with bn_groups 1
    model.recompute = False  # True: less memory, a slower step

    config.moco = moco = ml_collections.ConfigDict()
    moco.queue_size = 4096
    moco.momentum = 0.99
    moco.temperature = 0.1
    moco.symmetric = False
    moco.mask_same_image = False  # True for small data: see docs/health.md
    moco.shuffle = "auto"  # "address" on one host, "gather" across hosts

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "sgd"
    optimizer.learning_rate = 0.06  # for batch 512
    optimizer.scaling = "none"  # "linear": x batch / 256; "sqrt": x sqrt(batch)
    optimizer.momentum = 0.9
    optimizer.weight_decay = 5e-4  # L2, of every parameter

    config.schedule = schedule = ml_collections.ConfigDict()
    schedule.name = "cosine"
    schedule.milestones = (120, 160)  # epochs; of the step schedule only
    schedule.factor = 0.1  # of the step schedule only
    schedule.warmup_epochs = 0
    schedule.unit = "epoch"  # the rate changes between epochs only
    schedule.first_epoch = 1  # the demo counts epochs from 1

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
    knn.features = "projection"  # as the demo; decides which checkpoint is best
    knn.batch_size = 512
    knn.baseline = False  # first also raw pixels and the untrained encoder

    config.log = log = ml_collections.ConfigDict()
    log.every_steps = 50
    log.tensorboard = True
    return config
