"""What runs the commands that pages show: smaller ones, and images."""

import pathlib
import re
import shlex

import numpy as np
from PIL import Image

from moco_tf import config as configs
from moco_tf import config_schema

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Of docs/, run by test_tutorial.py; test_pages.py runs the others.
TUTORIALS = ("tutorial.md", "small_data.md")
# What makes a run small, unless the page says the field itself.
_RUN = {
    "train.max_steps": "2",
    "train.batch_size": "8",
    "model.backbone": "resnet18",
    "model.bn_groups": "2",
    "model.width": "0.125",
    "model.dim": "8",
    "data.image_size": "16",
    "data.threads": "2",
    "moco.queue_size": "16",
    "cmc.negatives": "16",
    "knn.k": "3",
    "log.tensorboard": "False",
}
_SMALLER = {
    "doctor": _RUN,
    "pretrain": _RUN,
    "benchmark": _RUN,
    "import-weights": {"data.image_size": "16"},
    "linear": {
        "train.epochs": "3",
        "train.batch_size": "8",
        "schedule.milestones": "1,2",
    },
    "finetune": {"train.epochs": "1", "train.batch_size": "2"},
}
_MORE = {
    "doctor": ["--trial_steps=1", "--prove=never"],
    "benchmark": ["--steps=1"],
}


def blocks(page, language):
    """The fenced blocks of a page of docs/ ("../README.md": of the top)."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def commands(page, places=()):
    """The words of a page's moco-tf commands, in order, made smaller.

    Args:
      page: str, as of `blocks`.
      places: pairs of text of the page and what stands for it here.
    """
    for block in blocks(page, "sh"):
        for line in re.split(r"&&|\n", block.replace("\\\n", " ")):
            line = line.strip().removeprefix(".venv/bin/")
            for shown, here in places:
                line = line.replace(shown, here)
            if line.startswith("moco-tf "):
                yield smaller(line)


def smaller(line):
    """The words after moco-tf of a command line, made smaller."""
    line = line.partition(" > ")[0]  # a test reads what is printed
    words = shlex.split(line, comments=True)[1:]
    return [*words, *_MORE.get(words[0], []), *_fields(words)]


def _fields(words):
    """The overrides that make a command small, those that it knows."""
    wanted = _SMALLER.get(words[0], {})
    given = dict(word.partition("=")[::2] for word in words)
    if wanted and words[0] != "import-weights":
        table = words[0] if words[0] in config_schema.TABLES else "pretrain"
        # Without one, it is chosen: any field of this may be given.
        own = configs.auto_base({}) if table == "pretrain" else table
        named = given.get("--config", own)
        # A choice that a command before has kept has the fields of any.
        named = own if named.endswith("/preset.py") else named
        config = configs.load(named, {}, table)
        known = configs.flatten(config.to_dict())
        wanted = {name: wanted[name] for name in wanted if name in known}
        if table == "pretrain" and named == own:
            wanted.pop("knn.k")  # chosen for the labelled images
    return [
        f"--config.{name}={value}"
        for name, value in wanted.items()
        if f"--config.{name}" not in given
    ]


def write_images(folder, count, seed, size=(40, 36)):
    """Noisy pictures, each of a colour of its own, JPEG.

    Args:
      folder: Path, to be made. count, seed: int. size: height, width.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        base = rng.integers(0, 200, 3)
        noise = rng.integers(0, 55, [*size, 3])
        image = Image.fromarray((base + noise).astype(np.uint8))
        image.save(folder / f"{number}.jpg", quality=95)
