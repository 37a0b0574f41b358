r"""SimCLR, ResNet-50, ImageNet, 100 epochs (arXiv:2002.05709).

moco-tf pretrain --config=simclr_imagenet --workdir=runs/simclr \
    --config.data.source=folder:/data/imagenet/train

Published: 64.5 % top-1 of a linear classifier (google-research/simclr, batch
4,096, 100 epochs, about 6 hours on 32 TPU v3). Wider networks, as published:
--config.model.width=2 or 4. A small batch trains with
--config.optimizer.scaling=sqrt --config.optimizer.learning_rate=0.075
(App. B.1). In place of LARS: --config.optimizer.name=lamb.
"""

from moco_tf import config as configs


def get_config():
    """The hyper-parameters of the published command."""
    config = configs.base("simclr")
    config.data.views = "simclr"  # crop, flip, jitter, grey, blur
    config.model.head = "simclr"  # 2048 -> 2048, BN, ReLU, 128, BN
    config.model.bn_groups = 1
    config.model.sync_bn = True  # statistics of all replicas' images
    config.optimizer.name = "lars"
    config.optimizer.learning_rate = 0.3  # for batch 256
    config.optimizer.scaling = "linear"
    config.optimizer.weight_decay = 1e-6  # not of biases and BatchNorm
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 10
    config.schedule.unit = "step"  # the rate changes at every step
    config.train.batch_size = 4096
    config.train.epochs = 100
    return config
