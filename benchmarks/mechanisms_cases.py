"""The cases of mechanisms.py, and the configuration of each.

The methods have the quickstart's encoder and images; the comparisons of the
papers have MoCo's CIFAR demo.
"""

from moco_tf import config as configs
from moco_tf import config_schema
from moco_tf.methods import table

# Of the methods, where the published value is for another size of data.
_SECTIONS = {
    "moco": {
        "queue_size": 1024,
        "momentum": 0.996,
        "temperature": 0.1,
    },
    "memory_bank": {
        "negatives": 1024,
        "temperature": 0.1,
        "loss": "info_nce",
    },
    "end_to_end": {"temperature": 0.1},
    "simclr": {"temperature": 0.2},
    "byol": {"momentum": 0.98},
    # At the published epsilon of 0.05 the cosines of features that lie close
    # together make codes that are all alike (docs/methods.md).
    "swav": {
        "prototypes": 100,
        "epsilon": 0.02,
        "queue_size": 0,
        "frozen_epochs": 0,
    },
    "cmc": {"negatives": 128, "temperature": 0.1, "loss": "info_nce"},
    # Of patches that share a brightness, that alone tells the right one.
    "cpc": {"rows": 2, "blocks": 2, "negatives": 1024, "patch_jitter": 0.8},
    "dino": {
        "outputs": 128,
        "first_teacher_temperature": 0.03,
        "teacher_temperature": 0.03,
        "center_momentum": 0.5,
        "momentum": 0.95,
        "frozen_epochs": 0,
    },
}
_OWN = {
    "simclr": {"model.head": "simclr"},
    "byol": {
        "data.small_views": 2,
        "model.head": "byol",
        "model.hidden": 256,
        "model.bn_groups": 1,
        "optimizer.learning_rate": 0.1,
        "optimizer.weight_decay": 5e-4,
        "train.batch_size": 64,  # twice the steps
    },
    "swav": {
        "model.head": "swav",
        "model.hidden": 256,
        "model.bn_groups": 1,
        "optimizer.learning_rate": 0.1,
        "optimizer.weight_decay": 5e-4,
    },
    "cmc": {
        "model.input": "lab",
        "model.head": "simclr",  # its last BatchNorm keeps sensors together
        "data.views": "cpc",  # nearly whole images: a bank's are of other crops
        "optimizer.learning_rate": 0.03,
    },
    "cpc": {
        "model.input": "grid",
        "model.norm": "layer",
        "model.head": "fc",
        "data.views": "cpc",
        "optimizer.name": "adam",
        "optimizer.learning_rate": 1e-3,
    },
    "dino": {
        "data.small_views": 2,
        "model.head": "dino_bn",
        "model.hidden": 256,
        "model.bn_groups": 1,
        "optimizer.learning_rate": 0.1,
        "optimizer.weight_decay": 5e-4,
    },
}
# The MoCo of the quickstart, and its head for the others that contrast keys.
_LEARNING = {
    "moco": {
        name: value
        for name, value in configs.flatten(
            configs.load("quickstart").to_dict()
        ).items()
        if name.startswith("moco.") or name == "model.head"
    },
    "memory_bank": {"model.head": "simclr"},
    "end_to_end": {"model.head": "simclr"},
}
# So many times the budget's epochs, for what does not get there in one.
LONGER = {"memory_bank": 3, "byol": 3, "dino": 3, "cmc": 5}
# A bank's features are renewed once an epoch: so fewer images, for as many
# steps. A draw from fewer would often have the query's image in it.
IMAGES = {"cmc": 2000}
# Of the comparisons: the authors' CIFAR demo at a quarter of its width.
_COMPARED = {
    "model.width": 0.25,
    "train.batch_size": 256,
    "optimizer.learning_rate": 0.03,
    "schedule.unit": "step",  # few epochs: the rate changes at every step
    "schedule.first_epoch": 0,
}
_BATCH = _COMPARED["train.batch_size"]
# MoCo's loss, so that the dictionary alone is another.
_DICTIONARIES = {
    "moco": {"queue_size": 2048},
    "memory_bank": {"temperature": 0.1, "loss": "info_nce"},
    "end_to_end": {"temperature": 0.1},
}
_MOMENTA = (0.0, 0.9, 0.99, 0.999)
_KEYS = (256, 1024, 4096)


def cases(experiment):
    """The cases of an experiment: label -> (method, fields)."""
    if experiment == "methods":
        return {name: (name, _LEARNING.get(name, {})) for name in table.METHODS}
    if experiment == "dictionary":
        return _dictionaries()
    if experiment == "momentum":
        return {str(m): ("moco", {"moco.momentum": m}) for m in _MOMENTA}
    return {v: ("moco", {"moco.shuffle": v}) for v in ("auto", "none")}


def _dictionaries():
    """Sizes of the queue, of a bank's draw, and of the batch."""
    settings = {}
    for size in _KEYS:
        queue = {"moco.queue_size": size}
        settings[f"queue {size}"] = ("moco", queue)
    for size in _KEYS:
        bank = {"memory_bank.negatives": size}
        settings[f"bank {size}"] = ("memory_bank", bank)
    for size in _KEYS[:-1]:  # 4,096 images do not fit a step's memory
        batch = {
            "train.batch_size": size,
            # In step with the batch, as published rates are.
            "optimizer.learning_rate": _COMPARED["optimizer.learning_rate"]
            * size
            / _BATCH,
        }
        settings[f"batch {size}"] = ("end_to_end", batch)
    return settings


EXPERIMENTS = ("methods", "dictionary", "momentum", "shuffle")


def make_config(experiment, method, fields, options, seed):
    """The configuration of a case.

    Args:
      experiment: of EXPERIMENTS. method, fields: as of `cases`.
      options: of the command line. seed: int.
    """
    base = _method if experiment == "methods" else _compared
    values = base(method, options) | {
        "method": method,
        "seed": seed,
        "train.epochs": options.epochs,
        "data.source": options.data,
        "knn.bank": options.data,
        "knn.query": options.test,
        "data.image_size": options.size,
        "train.precision": options.precision,
    }
    return configs.build(values | fields)


def _section(method, preset, settings):
    """The fields of a method: a preset's, but for some settings."""
    section = configs.load(preset)[method].to_dict() | settings
    return {f"{method}.{name}": value for name, value in section.items()}


def _preset(name):
    """The fields of a preset that all methods have."""
    values = configs.flatten(configs.load(name).to_dict())
    return {name: values[name] for name in config_schema.PRETRAIN}


def _method(method, options):
    """The quickstart's encoder, and what a method has of its own."""
    preset = table.METHODS[method].configs[0]
    return {
        **_preset("quickstart"),
        **_section(method, preset, _SECTIONS[method]),
        "data.views": "v1" if options.data.startswith("shapes") else "cifar",
        "model.head": "mlp",  # the quickstart's is SimCLR's
        "data.small_size": options.size // 2,
        "model.patch": options.size // 2,  # a grid of 3 x 3
        **_OWN.get(method, {}),
    }


def _compared(method, options):
    """MoCo's CIFAR demo, small, with another dictionary where so asked."""
    name = "moco_cifar10"
    own = name if method == "moco" else table.METHODS[method].configs[0]
    section = _section(method, own, _DICTIONARIES[method])
    return {**_preset(name), **section, **_COMPARED}
