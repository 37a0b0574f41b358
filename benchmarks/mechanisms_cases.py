"""The cases of mechanisms.py, and the configuration of each."""

from moco_tf import config as configs
from moco_tf import config_schema
from moco_tf.data import augmentation
from moco_tf.methods import table

# Of the small run, where the published value is for another size of data.
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
    "byol": {"momentum": 0.97},
    "swav": {
        "prototypes": 100,
        "queue_size": 1024,
        "queue_from_epoch": 0,
        "frozen_epochs": 0,
    },
    "cmc": {"negatives": 128, "temperature": 0.1, "loss": "info_nce"},
    "cpc": {"rows": 2, "blocks": 2, "negatives": 1024},
    "dino": {
        "outputs": 128,
        "first_teacher_temperature": 0.05,
        "teacher_temperature": 0.05,
        "momentum": 0.95,
        "frozen_epochs": 0,
    },
}
_OWN = {
    "simclr": {"model.head": "simclr"},
    "byol": {
        "model.head": "byol",
        "model.hidden": 256,
        "model.bn_groups": 1,
        "optimizer.learning_rate": 0.2,
        "optimizer.weight_decay": 5e-4,
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
        "model.head": "dino_bn",
        "model.hidden": 256,
        "model.bn_groups": 1,
        "optimizer.learning_rate": 0.2,
        "optimizer.weight_decay": 5e-4,
    },
}
# A bank's features are renewed once an epoch: so fewer images, for as many
# steps. A draw from fewer would often have the query's image in it.
IMAGES = {"cmc": 2000}
# Of the comparisons: more steps in few epochs, and keys that are not too old.
_COMPARED = {"train.batch_size": 64}
_MOCO = {"moco.momentum": 0.99}
_VALUES = {
    "momentum": ("moco.momentum", (0.0, 0.9, 0.99, 0.999, 0.9999)),
    "temperature": ("moco.temperature", (0.05, 0.1, 0.2, 0.5)),
    "head": ("model.head", ("fc", "mlp", "simclr")),
    "shuffle": ("moco.shuffle", ("auto", "none")),
}
_OPERATIONS = {
    "crop": {"low": 0.2},
    "colour": {"jitter": 1.0, "reach": (0.8, 0.8, 0.8, 0.2)},
    "grey": {"gray": 0.5},
    "blur": {"blur": 1.0},
}


def cases(experiment):
    """The cases of an experiment: label -> (method, fields, augmentation)."""
    if experiment == "methods":
        return {name: (name, {}, None) for name in table.METHODS}
    if experiment == "multi_crop":
        small = {
            "data.small_views": 4,
            "data.small_size": 16,
            "data.small_scale": (0.1, 0.35),
        }
        return {
            f"{name}{more}": (name, fields, None)
            for name in ("moco", "simclr", "byol", "swav", "dino")
            for more, fields in (("", {}), (" + 4 small", small))
        }
    if experiment == "dictionary":
        return _dictionaries()
    if experiment == "augmentation":
        names = list(_OPERATIONS)
        return {
            f"{one} + {other}": ("simclr", _COMPARED, (one, other))
            for place, one in enumerate(names)
            for other in names[place:]
        }
    name, tried = _VALUES[experiment]
    base = _COMPARED | _MOCO
    return {str(v): ("moco", base | {name: v}, None) for v in tried}


def _dictionaries():
    """Sizes of the queue, of a bank's draw, and of the batch."""
    settings = {}
    for size in (64, 512, 4096):
        queue = _COMPARED | _MOCO | {"moco.queue_size": size}
        settings[f"queue {size}"] = ("moco", queue, None)
    for size in (64, 512, 4096):
        bank = _COMPARED | {"memory_bank.negatives": size}
        settings[f"bank {size}"] = ("memory_bank", bank, None)
    for size in (32, 64, 128, 256):
        batch = {
            "train.batch_size": size,
            # In step with the batch, as published rates are.
            "optimizer.learning_rate": 0.06 * size / 64,
        }
        settings[f"batch {size}"] = ("end_to_end", batch, None)
    return settings


EXPERIMENTS = (
    "methods",
    "dictionary",
    "momentum",
    "temperature",
    "head",
    "shuffle",
    "augmentation",
    "multi_crop",
)


def make_config(method, fields, options, seed):
    """The configuration of a case, from the quickstart's and its method's.

    The head is MoCo v2's, which the quickstart departs from.
    """
    values = configs.flatten(configs.load("quickstart").to_dict())
    known = config_schema.PRETRAIN
    values = {name: values[name] for name in known}
    recipe = configs.load(table.METHODS[method].configs[0])
    section = recipe[method].to_dict() | _SECTIONS[method]
    values |= {f"{method}.{name}": value for name, value in section.items()}
    values |= {
        "method": method,
        "seed": seed,
        "train.epochs": options.epochs,
        "data.source": options.data,
        "knn.bank": options.data,
        "knn.query": options.test,
        "data.image_size": options.size,
        "data.views": "v1" if options.data.startswith("shapes") else "cifar",
        "train.precision": options.precision,
        "model.head": "mlp",
        "model.patch": options.size // 2,  # a grid of 3 x 3
    }
    return configs.build(values | _OWN.get(method, {}) | fields)


def compose(operations):
    """The views of one or two operations, in the order of the recipes."""
    parts = {"low": 1.0}  # no crop: all of the image
    for operation in operations:
        parts |= _OPERATIONS[operation]
    return augmentation.Augmentation(**parts)
