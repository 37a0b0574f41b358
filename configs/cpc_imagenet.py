r"""CPC v1 on images, ResNet-101 on patches, ImageNet (arXiv:1807.03748).

moco-tf pretrain --config=cpc_imagenet --workdir=runs/cpc \
    --config.data.source=folder:/data/imagenet/train

Published: 48.7 % top-1 of a linear classifier, with the first three stages of a
ResNet v2. The paper does not give the epochs, the width of the context or the
number of negatives; those here are ours.
"""

import ml_collections


def get_config():
    """What the paper gives, Sec. 3.2, and what it leaves open."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.method = "cpc"

    config.data = data = ml_collections.ConfigDict()
    data.source = ""  # folder:DIR, list:FILE, tfds:NAME/SPLIT, shapes:train
    data.views = "cpc"  # 256 of 300 pixels a side, and flip; patches are grey
    data.strength = 1.0  # of the colour jitter
    data.image_size = 256  # pixels
    data.small_views = 0  # of multi-crop, beside the two large ones
    data.small_size = 96  # pixels
    data.small_scale = (0.05, 0.14)  # shares of the area that one shows
    data.max_corrupt_fraction = 0.01  # of samples seen; above, the run stops
    data.threads = 0  # 0 = all cores
    data.augment_on = "host"  # "device": colour and blur run in the step

    config.model = model = ml_collections.ConfigDict()
    model.backbone = "resnet101"
    model.input = "grid"  # 7 x 7 patches
    model.patch = 64  # pixels; patches overlap by half
    model.norm = "layer"
    model.width = 1.0
    model.stem = "imagenet"  # 7x7 convolution, stride 2, and max pooling
    model.head = "fc"  # 2048 -> 256, of each patch
    model.hidden = 0  # of the head; 0 = as wide as the features
    model.dim = 256
    model.bn_groups = 8  # replicas at most; of no other use without BatchNorm
    model.sync_bn = False  # True: over all replicas, with bn_groups 1
    model.recompute = False  # True: less memory, a slower step

    config.cpc = cpc = ml_collections.ConfigDict()
    cpc.rows = 5  # predicted below a place
    cpc.blocks = 5  # of the context
    cpc.negatives = 4096  # patches of the global batch

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "adam"
    optimizer.learning_rate = 2e-4
    optimizer.scaling = "none"  # "linear": x batch / 256; "sqrt": x sqrt(batch)
    optimizer.momentum = 0.9
    optimizer.weight_decay = 0.0

    config.schedule = schedule = ml_collections.ConfigDict()
    schedule.name = "step"
    schedule.milestones = ()  # none: the rate stays
    schedule.factor = 0.1
    schedule.warmup_epochs = 0
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
