r"""Keys of the batch, end to end, ResNet-50 (arXiv:1911.05722, Figure 2a).

moco-tf pretrain --config=end_to_end_imagenet --workdir=runs/end_to_end \
    --config.data.source=folder:/data/imagenet/train

MoCo v1 compares it with the queue for batches up to 1,024 (Section 4.1, Figure
3), where it does about as well as MoCo with as many keys.
"""

from moco_tf import config as configs


def get_config():
    """MoCo v1's hyper-parameters, with another dictionary."""
    config = configs.base("end_to_end")
    # All are the base's. optimizer.learning_rate 0.03 is for batch 256; in
    # step with larger ones.
    return config
