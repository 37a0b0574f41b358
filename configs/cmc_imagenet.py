r"""CMC in Lab, two half-width ResNet-50, ImageNet (arXiv:1906.05849).

moco-tf pretrain --config=cmc_imagenet --workdir=runs/cmc \
    --config.data.source=folder:/data/imagenet/train

The defaults of the authors' training script, with their network "resnet50v1".
Their rate falls three times; the paper gives no BatchNorm groups.
"""

import ml_collections


def get_config():
    """Every hyper-parameter of the authors' script."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.method = "cmc"

    config.data = data = ml_collections.ConfigDict()
    data.source = ""  # folder:DIR, list:FILE, tfds:NAME/SPLIT, shapes:train
    data.views = "cmc"  # crop and flip: the sensors differ
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
    model.input = "lab"  # luminance and colour, each by half of the network
    model.patch = 0  # pixels, of the input "grid"
    model.norm = "batch"
    model.width = 0.5  # of each half
    model.stem = "imagenet"  # 7x7 convolution, stride 2, and max pooling
    model.head = "fc"  # 1024 -> 128, for each half
    model.hidden = 0  # of the head; 0 = as wide as the features
    model.dim = 128
    model.bn_groups = 8  # of the global batch; the published number is unknown
    model.sync_bn = False  # True: over all replicas, with bn_groups 1
    model.recompute = False  # True: less memory, a slower step

    config.cmc = cmc = ml_collections.ConfigDict()
    cmc.negatives = 16384  # drawn from the other sensor's bank at each step
    cmc.momentum = 0.5  # of an image's features, once an epoch
    cmc.temperature = 0.07
    cmc.loss = "nce"  # or "info_nce", as MoCo's

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "sgd"
    optimizer.learning_rate = 0.03  # for batch 256
    optimizer.scaling = "none"  # "linear": x batch / 256; "sqrt": x sqrt(batch)
    optimizer.momentum = 0.9
    optimizer.weight_decay = 1e-4  # L2, of every parameter

    config.schedule = schedule = ml_collections.ConfigDict()
    schedule.name = "step"
    schedule.milestones = (120, 160, 200)  # epochs
    schedule.factor = 0.1
    schedule.warmup_epochs = 0
    schedule.unit = "epoch"  # the rate changes between epochs only
    schedule.first_epoch = 0

    config.train = train = ml_collections.ConfigDict()
    train.batch_size = 128  # of all replicas together
    train.epochs = 240
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
