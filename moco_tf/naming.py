"""Names: which one a user probably meant, and names that are no text."""

import difflib
import re

_MOMENTUMS = tuple(
    f"{method}.momentum"
    for method in ("moco", "byol", "dino", "memory_bank", "cmc")
)
_PRECISIONS = ("precision", "mixed_bfloat16")

# What people type, as other programs have it: what it is called here, the
# likeliest first. A field by its last part or complete, a flag without dashes,
# a preset, or one of the values of a field.
ALIASES: dict[str, tuple[str, ...]] = {
    # training
    "lr": ("learning_rate",),
    "base_lr": ("learning_rate",),
    "blr": ("learning_rate",),
    "max_lr": ("learning_rate",),
    "eta": ("learning_rate",),
    "rate": ("learning_rate",),
    "wd": ("weight_decay",),
    "decay": ("weight_decay",),
    "l2": ("weight_decay",),
    "optim": ("optimizer.name",),
    "optimizer": ("optimizer.name",),
    "opt": ("optimizer.name",),
    "solver": ("optimizer.name",),
    "sched": ("schedule.name",),
    "schedule": ("schedule.name",),
    "scheduler": ("schedule.name",),
    "lr_schedule": ("schedule.name",),
    "lr_scheduler": ("schedule.name",),
    "cos": ("schedule.name", "cosine"),
    "warmup": ("schedule.warmup_epochs",),
    "warmup_steps": ("schedule.warmup_epochs",),
    "gamma": ("schedule.factor",),
    "lr_steps": ("schedule.milestones",),
    "lr_decay_epochs": ("schedule.milestones",),
    "bs": ("batch_size",),
    "b": ("batch_size",),
    "batch": ("batch_size",),
    "global_batch_size": ("batch_size",),
    "batch_size_per_gpu": ("batch_size",),
    "epoch": ("epochs",),
    "max_epochs": ("epochs",),
    "num_epochs": ("epochs",),
    "n_epochs": ("epochs",),
    "ep": ("epochs",),
    "steps": ("max_steps",),
    "num_steps": ("max_steps",),
    "total_steps": ("max_steps",),
    "max_iter": ("max_steps",),
    "iterations": ("max_steps",),
    "iters": ("max_steps",),
    "accum": ("micro_batches",),
    "grad_accum": ("micro_batches",),
    "accum_iter": ("micro_batches",),
    "gradient_accumulation_steps": ("micro_batches",),
    "accumulate_grad_batches": ("micro_batches",),
    "amp": _PRECISIONS,
    "use_amp": _PRECISIONS,
    "fp16": ("precision", "mixed_float16"),
    "use_fp16": ("precision", "mixed_float16"),
    "float16": ("precision", "mixed_float16"),
    "half": ("precision", "mixed_float16"),
    "16": ("mixed_float16",),
    "bf16": _PRECISIONS,
    "bfloat16": _PRECISIONS,
    "mixed": _PRECISIONS,
    "mixed_precision": _PRECISIONS,
    "fp32": ("precision", "float32"),
    "full": ("float32",),
    "32": ("float32",),
    "dtype": ("precision",),
    "xla": ("jit_compile",),
    "jit": ("jit_compile",),
    "compile": ("jit_compile",),
    "smoothing": ("label_smoothing",),
    "patience": ("early_stopping",),
    # model
    "arch": ("backbone",),
    "a": ("backbone",),
    "architecture": ("backbone",),
    "encoder": ("backbone",),
    "base_encoder": ("backbone",),
    "base_model": ("backbone",),
    "model_name": ("backbone",),
    "model": ("backbone",),
    "net": ("backbone",),
    "network": ("backbone",),
    "r18": ("resnet18",),
    "rn18": ("resnet18",),
    "r50": ("resnet50",),
    "rn50": ("resnet50",),
    "feat_dim": ("model.dim",),
    "feature_dim": ("model.dim",),
    "embed_dim": ("model.dim",),
    "out_dim": ("model.dim", "dino.outputs"),
    "proj_dim": ("model.dim",),
    "moco_dim": ("model.dim",),
    "projection_dim": ("model.dim",),
    "hidden_dim": ("model.hidden",),
    "hidden_mlp": ("model.hidden",),
    "mlp": ("model.head",),
    "projection_head": ("model.head",),
    "projector": ("model.head",),
    "proj": ("model.head",),
    "syncbn": ("model.sync_bn",),
    "sync_batchnorm": ("model.sync_bn",),
    "bn": ("model.norm", "batch"),
    "ln": ("layer",),
    "checkpointing": ("model.recompute",),
    "gradient_checkpointing": ("model.recompute",),
    "grad_checkpointing": ("model.recompute",),
    "remat": ("model.recompute",),
    # methods
    "temp": ("temperature",),
    "tau": ("temperature",),
    "t": ("temperature",),
    "moco_t": ("temperature",),
    "tau_s": ("temperature",),
    "tau_t": ("teacher_temperature",),
    "teacher_temp": ("teacher_temperature",),
    "m": _MOMENTUMS,
    "moco_m": _MOMENTUMS,
    "ema": _MOMENTUMS,
    "ema_decay": _MOMENTUMS,
    "momentum_teacher": _MOMENTUMS,
    "tau_base": _MOMENTUMS,
    "k": ("queue_size", "negatives", "k"),
    "moco_k": ("queue_size",),
    "queue": ("queue_size",),
    "queue_len": ("queue_size",),
    "queue_length": ("queue_size",),
    "dictionary_size": ("queue_size",),
    "num_negatives": ("negatives", "queue_size"),
    "nce_k": ("negatives",),
    "nce_t": ("temperature",),
    "nmb_prototypes": ("prototypes",),
    "num_prototypes": ("prototypes",),
    "symmetric_loss": ("symmetric",),
    "shuffle_bn": ("shuffle",),
    # data
    "data": ("data.source", "source", "data.train"),
    "dataset": ("data.source", "source", "data.train"),
    "data_dir": ("data.source", "source", "data.train"),
    "data_path": ("data.source", "source", "data.train"),
    "root": ("data.source", "source", "data.train"),
    "train_dir": ("data.train", "data.source"),
    "traindir": ("data.train", "data.source"),
    "val": ("data.test", "query"),
    "val_dir": ("data.test", "query"),
    "valdir": ("data.test", "query"),
    "dir": ("folder",),
    "imagefolder": ("folder",),
    "files": ("list",),
    "csv": ("list",),
    "size": ("image_size",),
    "img_size": ("image_size",),
    "imsize": ("image_size",),
    "input_size": ("image_size",),
    "crop_size": ("image_size",),
    "resolution": ("image_size",),
    "res": ("image_size",),
    "aug": ("data.views",),
    "augs": ("data.views",),
    "aug_plus": ("data.views",),
    "augment": ("data.views",),
    "augmentation": ("data.views",),
    "augmentations": ("data.views",),
    "transform": ("data.views",),
    "jitter": ("data.strength",),
    "color_jitter": ("data.strength",),
    "local_crops": ("data.small_views",),
    "local_crops_number": ("data.small_views",),
    "nmb_crops": ("data.small_views",),
    "workers": ("data.threads",),
    "num_workers": ("data.threads",),
    "n_workers": ("data.threads",),
    "nworkers": ("data.threads",),
    "j": ("data.threads",),
    "cpus": ("data.threads",),
    "label_fraction": ("data.labels",),
    "percent": ("data.labels",),
    # what is written, and when
    "print_freq": ("log.every_steps",),
    "log_every": ("log.every_steps",),
    "log_interval": ("log.every_steps",),
    "log_freq": ("log.every_steps",),
    "save_every": ("checkpoint.every_steps",),
    "save_freq": ("checkpoint.every_steps",),
    "save_interval": ("checkpoint.every_steps",),
    "keep_checkpoints": ("checkpoint.keep",),
    "max_to_keep": ("checkpoint.keep",),
    "eval_every": ("knn.every_epochs",),
    "eval_freq": ("knn.every_epochs",),
    "knn_k": ("knn.k",),
    "nb_knn": ("knn.k", "k"),
    "n_neighbors": ("k", "knn.k"),
    "neighbors": ("k", "knn.k"),
    "tb": ("log.tensorboard",),
    # flags
    "gpus": ("devices",),
    "gpu": ("devices",),
    "num_gpus": ("devices",),
    "n_gpus": ("devices",),
    "ngpus": ("devices",),
    "ngpu": ("devices",),
    "gpu_ids": ("devices",),
    "device": ("devices",),
    "cuda": ("devices",),
    "accelerator": ("devices",),
    "resume": ("checkpoint", "workdir"),
    "ckpt": ("checkpoint", "workdir"),
    "checkpoint_path": ("checkpoint", "workdir"),
    "weights": ("checkpoint",),
    "pretrained": ("checkpoint", "workdir"),
    "out": ("output", "workdir"),
    "output_dir": ("output", "workdir"),
    "out_dir": ("output", "workdir"),
    "save_dir": ("output", "workdir"),
    "logdir": ("workdir",),
    "log_dir": ("workdir",),
    "exp_dir": ("workdir",),
    "checkpoint_dir": ("workdir",),
    "run": ("workdir",),
    "run_dir": ("workdir",),
    "cfg": ("config",),
    "preset": ("config",),
    "hosts": ("workers",),
    "rank": ("worker_index",),
    "node_rank": ("worker_index",),
    "local_rank": ("worker_index",),
    "license": ("licence",),
    "format": ("to", "layout"),
    # presets and methods
    "moco": ("moco_v2_imagenet",),
    "mocov1": ("moco_v1_imagenet", "moco"),
    "mocov2": ("moco_v2_imagenet", "moco"),
    "moco_v2": ("moco_v2_imagenet", "moco"),
    "imagenet": ("moco_v2_imagenet",),
    "imagenet1k": ("moco_v2_imagenet",),
    "cifar": ("moco_cifar10",),
    "cifar10": ("moco_cifar10",),
    "instdisc": ("memory_bank",),
}
# What is a flag and no field of a configuration.
_FLAGS = ("devices", "workdir", "deterministic", "extend", "config", "verbose")
_LATER = ("knn", "log", "probe")  # sections whose fields are less likely meant


def _parts(name):
    """A name without dashes in front: its section, and its last part."""
    section, _, last = name.lstrip("-").rpartition(".")
    return section.removeprefix("config.").removeprefix("config"), last


def _plain(name):
    """Letters and digits alone: ResNet-50 and resnet50 are one name."""
    return re.sub("[^a-z0-9]", "", name.lower())


def _ending(names, target):
    """The names that are a target, or whose last parts are it."""
    return [
        name
        for name in names
        if name.lstrip("-") == target or name.endswith(f".{target}")
    ]


_ALIASES = {_plain(alias): names for alias, names in ALIASES.items()}


def nearest(name, names):
    """Returns the name that was probably meant, or None if none is like it.

    A name that differs in case and dashes alone comes first; then the same
    field of another section; then what other programs' words (ALIASES) are
    called here; then what begins alike, and what is spelt alike.

    Args:
      name: str, as typed. names: of what there is.
    """
    names = list(names)
    section, last = _parts(name)
    same = [n for n in names if _plain(n) == _plain(name)]
    if same:
        return same[0]
    exact = [n for n in names if _plain(_parts(n)[1]) == _plain(last)]
    if last.isupper() and len(last) == 1:
        exact = []  # K is no k
    aliased = _aliased(last, names)
    joined, of_section = [], []
    if section:
        joined = _aliased(f"{section}{last}", names)  # data.path as data_path
        of_section = [n for n in aliased if _parts(n)[0] == section]
    for likely in (joined, of_section, exact, aliased):
        if likely:
            return min(
                likely,
                key=lambda n: (
                    not _alike(section, _parts(n)[0]),
                    _parts(n)[0] in _LATER,
                ),
            )
    return _begins_alike(last, names) or _spelt_alike(name, names)


def _aliased(word, names):
    """The names that another program's word stands for, the likeliest first."""
    targets = _ALIASES.get(_plain(word), ())
    return [n for target in targets for n in _ending(names, target)]


def _alike(one, other):
    return difflib.SequenceMatcher(None, one, other).ratio() > 0.75


def _begins_alike(last, names):
    plain = _plain(last)
    if len(plain) < 3:
        return None
    alike = [n for n in names if _plain(_parts(n)[1]).startswith(plain)] or [
        n for n in names if _plain(n).startswith(plain)
    ]
    return alike[0] if alike else None


def _spelt_alike(name, names):
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    section, last = _parts(name)
    # The first of a name stays: of the likelier sections.
    names = sorted(names, key=lambda n: _parts(n)[0] in _LATER)
    by_last = {_parts(n)[1]: n for n in reversed(names)}
    lasts = difflib.get_close_matches(last, by_last, n=1, cutoff=0.75)
    if not matches:
        return by_last[lasts[0]] if lasts else None
    of_match = _parts(matches[0])
    if lasts and (of_match[1] != lasts[0] or not _alike(section, of_match[0])):
        return by_last[lasts[0]]
    return matches[0]


def suggestion(name, names):
    """Returns a sentence for an error: the nearest name, else all names.

    Args:
      name: str, as typed. names: of what there is.
    """
    likely = nearest(name, names)
    if likely is not None:
        return f"Did you mean {likely!r}?"
    return f"Known: {', '.join(sorted(names))}."


def field_suggestion(name, fields):
    """Returns a sentence for an unknown field of a configuration.

    As `suggestion`; where a flag was probably meant, it names that.

    Args:
      name: str, as typed, without "config.". fields: names of all fields.
    """
    likely = nearest(name, fields)
    flag = nearest(name, _FLAGS)
    targets = _ALIASES.get(_plain(_parts(name)[1]), ())
    exact = _parts(name)[1] == flag or flag in targets
    if flag and exact and not (likely and _ending([likely], targets[:1])):
        return f"It is no field, but a flag: --{flag}."
    return suggestion(name, fields)


def as_text(name):
    """Returns a name (str) that UTF-8 can hold: "?" for bytes of no text."""
    return name.encode("utf-8", "replace").decode("utf-8")
