"""The commands of the README and of docs/ run as they stand, only smaller.

Those of the tutorials are run by test_tutorial.py; those of docs/results, which
say how a figure was measured, are read by test_commands.py.
"""

import pathlib
import pickle
import shutil

import pytest

from moco_tf.cli import main as cli
from moco_tf.weights import torch_file
from tests import page_commands, shallow

# In this order: pages go on with the runs of those before them.
PAGES = (
    "training.md",
    "evaluation.md",
    "doctor.md",
    "data.md",
    "../README.md",
    "serving.md",
)
# Its commands want a GPU: test_commands.py parses them.
GPU_PAGE = "gpu.md"
# Its commands choose for the images at hand, so that none of their fields can
# be made smaller: tests/doctor/test_auto.py runs them on a small network.
AUTO_PAGE = "auto.md"
# What a page speaks of, and what stands for it here.
PLACES = (
    ("/data/imagenet/train", "train"),
    ("/data/imagenet/val", "test"),
    ("/data/train", "train"),
    ("/data/test", "test"),
    ("/data/", "data/"),
    ("--query=folder:cifar10/test", "--query=folder:test --k=5"),
    ("cifar10/", ""),
    ("mine.py", "./mine.py"),
    ("--k=20,200", "--k=5,20"),
    ("RUN", "runs/cifar10"),
)
# What pages take for granted; training.md has the first one too.
BEFORE = (
    "moco-tf pretrain --config=moco_cifar10 --workdir=runs/cifar10"
    " --config.data.source=folder:train"
    " --config.knn.bank=folder:train --config.knn.query=folder:test",
    "moco-tf embed --workdir=runs/cifar10 --source=folder:train"
    " --path=runs/cifar10/train.parquet",
    "moco-tf export-weights --workdir=runs/cifar10 --path=a.pth.tar",
)
# The same flags with other values are not run again: they take long, and
# test_commands.py parses all.
ONCE = ("pretrain", "linear", "export")
# serving/test_convert.py runs these in processes of their own, and
# test_benchmark.py all that is measured.
ELSEWHERE = {"--to=onnx", "--to=openvino", "benchmark"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as the pages take it, with all their commands run in it."""
    folder = tmp_path_factory.mktemp("pages")
    kinds = ("data/images", "data/photos", "photos", "colour", "depth")
    kinds += ("train/one", "train/two", "test/one", "test/two")
    for seed, kind in enumerate(kinds):
        page_commands.write_images(folder / kind, 16, seed)
    config = page_commands.ROOT / "configs" / "quickstart.py"
    mine = config.read_text().replace("shapes:", "folder:")
    (folder / "mine.py").write_text(mine)
    with shallow.network((1, 1, 1, 1)), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = []
        for line in BEFORE:
            done.append(page_commands.smaller(line))
            assert cli.run(done[-1]) == 0, line
        for name in ("moco_v2_200ep_pretrain.pth.tar", "resnet50.pth"):
            shutil.copy("a.pth.tar", name)
        _write_dino("a.pth.tar", "dino.ckpt")
        alike = {_flags(words) for words in done}
        for page in PAGES:
            for words in page_commands.commands(page, PLACES):
                if words in done or ELSEWHERE.intersection(words):
                    continue
                if words[0] in ONCE and _flags(words) in alike:
                    continue
                assert cli.run(words) == 0, (page, words)
                done.append(words)
                alike.add(_flags(words))
    return folder


def _flags(words):
    """A command and the names of its flags."""
    return words[0], *sorted({word.partition("=")[0] for word in words[1:]})


def _write_dino(source, path):
    """A file of two encoders, as DINO's, of a checkpoint of MoCo."""
    state = torch_file.read(source)["state_dict"]
    sides = {"student": "module.encoder_q.", "teacher": "module.encoder_k."}
    saved = {
        side: {
            f"backbone.{name.removeprefix(start)}": value
            for name, value in state.items()
            if name.startswith(start) and ".fc." not in name
        }
        for side, start in sides.items()
    }
    with open(path, "wb") as file:
        pickle.dump(saved, file)


def test_no_page_is_left_out():
    known = {*PAGES, *page_commands.TUTORIALS, GPU_PAGE, AUTO_PAGE}
    for path in pathlib.Path(page_commands.ROOT, "docs").glob("*.md"):
        if "moco-tf " in "".join(page_commands.blocks(path.name, "sh")):
            assert path.name in known


def test_the_page_that_is_not_run_is_of_gpus_alone():
    text = "".join(page_commands.blocks(GPU_PAGE, "sh"))
    lines = [line for line in text.splitlines() if "moco-tf " in line]
    assert lines
    assert all(" --devices=gpu " in line for line in lines)


@pytest.mark.parametrize(
    "path",
    [
        "doctor.json",
        "photos.parquet",
        "runs/mine/report.html",
        "runs/mine/export/encoder/1/saved_model.pb",
        "runs/rgbd/metrics.csv",
        "phone/encoder.tflite",
        "mine.pkl",
        "mine.safetensors",
    ],
)
def test_what_the_pages_promise_is_there(place, path):
    assert (place / path).stat().st_size > 0


def test_weights_that_come_back_have_the_same_bytes(place):
    before, after = (place / f"{name}.pth.tar" for name in "ab")
    assert before.read_bytes() == after.read_bytes()
