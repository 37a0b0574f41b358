r"""CMC in Lab, two half-width ResNet-50, ImageNet (arXiv:1906.05849).

moco-tf pretrain --config=cmc_imagenet --workdir=runs/cmc \
    --config.data.source=folder:/data/imagenet/train

The defaults of the authors' training script, with their network "resnet50v1".
Their rate falls three times; the paper gives no BatchNorm groups.
"""

from moco_tf import config as configs


def get_config():
    """The hyper-parameters of the authors' script."""
    config = configs.base("cmc")
    config.data.views = "cmc"  # crop and flip: the sensors differ
    config.model.input = "lab"  # luminance and colour, half of the network each
    config.model.width = 0.5  # of each half; its head "fc" is 1024 -> 128
    # optimizer.learning_rate 0.03 is for batch 256, and the published number of
    # BatchNorm groups is unknown.
    config.schedule.milestones = (120, 160, 200)
    config.train.batch_size = 128
    config.train.epochs = 240
    return config
