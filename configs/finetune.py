r"""Fine-tuning of a whole network from an encoder, or from random weights.

moco-tf finetune --workdir=RUN --config.data.labels=0.01
moco-tf finetune --workdir=RUN --config.data.labels=0.01 \
    --config.model.init=random --output=RUN/scratch

BatchNorm is synchronised over the replicas, and the new head has one too, as
in MoCo's transfer experiments (arXiv:1911.05722, Sec. 4.2).
"""

from moco_tf import config as configs


def get_config():
    """Every value as FINETUNE of _base.py has it."""
    return configs.base("finetune")
