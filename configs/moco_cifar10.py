r"""MoCo on CIFAR-10 as in the authors' demo: ResNet-18, 200 epochs.

moco-tf pretrain --config=moco_cifar10 --workdir=runs/cifar10 \
    --config.data.source=folder:DIR/train \
    --config.knn.bank=folder:DIR/train --config.knn.query=folder:DIR/test

DIR holds train/CLASS/*.png and test/CLASS/*.png (JPEG works too, and so does
tfds:cifar10/train). Published curve, kNN on the 128-d output: epoch 1: loss
6.957, 31.98 %; epoch 2: loss 7.250, 33.52 %; epoch 200: loss 2.272, 82.58 %.
Symmetric (--config.moco.symmetric=true): 85.3 % at epoch 200.
"""

from moco_tf import config as configs


def get_config():
    """The hyper-parameters of the demo."""
    config = configs.base("moco")
    config.data.views = "cifar"  # crop from 8 %, flip, jitter, grey; no blur
    config.data.image_size = 32
    config.data.small_size = 16
    config.model.backbone = "resnet18"
    config.model.stem = "cifar"  # 3x3 convolution, stride 1, no pooling
    # The base's head "fc" is 512 -> 128, its 8 BatchNorm groups of 64 images.
    config.moco.queue_size = 4096
    config.moco.momentum = 0.99
    config.moco.temperature = 0.1
    config.optimizer.learning_rate = 0.06  # for batch 512
    config.optimizer.weight_decay = 5e-4  # L2, of every parameter
    config.schedule.name = "cosine"
    config.schedule.first_epoch = 1  # the demo counts epochs from 1
    config.train.batch_size = 512
    config.checkpoint.every_steps = 0  # at the end of every epoch only
    config.knn.every_epochs = 1
    config.knn.features = "projection"  # as the demo; decides which is best
    config.knn.batch_size = 512
    return config
