"""Rows of weights/: files of others, read and written."""

import functools
import json
import pathlib
import re
import types
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import workdirs
from moco_tf.cli import flags, main
from moco_tf.weights import (
    candidates,
    conversion,
    exporting,
    importing,
    origin,
    starting,
    weight_files,
)
from tests import shallow
from tests.remedies import following
from tests.weights import small_weights, torch_files

ROWS = following.Rows("weights/*.py")


@functools.cache
def tensors():
    """A backbone's tensors by torchvision's names."""
    return {
        name: value
        for name, value in small_weights.tensors(counted=False).items()
        if not name.startswith("fc.")
    }


def taken(path):
    """Reads a file that one of the remedies gives."""
    assert weight_files.read(path).query


def good(tmp_path, name="good.safetensors", **more):
    """The file that a remedy asks for."""
    path = tmp_path / name
    safetensors.numpy.save_file(tensors() | more, path)
    return path


def two(tmp_path, name="two.safetensors"):
    """A file of two encoders, of which no name says that it was trained."""
    path = tmp_path / name
    saved = {f"one.{name}": value for name, value in tensors().items()}
    saved |= {f"two.{name}": value + 1 for name, value in tensors().items()}
    safetensors.numpy.save_file(saved, path)
    return path


def flags_of(text):
    """The choices that a message lists, as arguments of `read`."""
    choices = re.findall(r"((?: ?--(?:entry|prefix)=\S+)+)", text)
    return [
        dict(word[2:].split("=") for word in choice.split())
        for choice in choices
    ]


# Which of several encoders.


@ROWS.followed("weights/candidates.py:choose", "no name says which one was")
def two_encoders(tmp_path):
    path = two(tmp_path)
    text = yield lambda: weight_files.read(path)
    choices = flags_of(text)
    assert len(choices) == 2, text
    for choice in choices:
        words = [f"--{name}={value}" for name, value in choice.items()]
        given = ["import-weights", "--path=x", "--workdir=y", *words]
        yield lambda w=given: flags.parse(w, main.COMMANDS)
        yield lambda c=choice: weight_files.read(path, **c)


@ROWS.followed("weights/candidates.py:choose", "encoders. Choose one with the")
def too_many_encoders_to_compare(tmp_path, monkeypatch):
    monkeypatch.setattr(candidates, "_MAX_ENCODERS", 1)
    path = two(tmp_path)
    text = yield lambda: weight_files.read(path)
    for choice in flags_of(text):
        yield lambda c=choice: weight_files.read(path, **c)


@ROWS.followed("weights/candidates.py:choose", "No encoder stands at")
def encoder_that_is_not_there(tmp_path):
    path = two(tmp_path)
    text = yield lambda: weight_files.read(path, prefix="three")
    for choice in flags_of(text.partition("The file has")[2]):
        yield lambda c=choice: weight_files.read(path, **c)


# What lies there in place of weights.


def _file(place, words, name, contents, *mended):
    """A row of a file: its bytes, or a function of its path that writes it."""

    @ROWS.followed(f"weights/{place}", words)
    def row(tmp_path):
        path = tmp_path / name
        if callable(contents):
            contents(path)
        else:
            path.write_bytes(contents)
        text = yield lambda: weight_files.read(path)
        if not mended:
            yield lambda: taken(good(tmp_path))
        for change in mended:
            yield lambda how=change: how(path, text)


def _zip(*names):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"12345")

    return write


def _saved_model(path, text):
    """The commands that a message names take the folder."""
    assert "--saved_model" in text
    for command in ("knn", "linear"):
        words = [command, f"--saved_model={path}", "--output=x"]
        flags.parse(words, main.COMMANDS)
    words = ["embed", f"--saved_model={path}", "--source=x", "--path=y"]
    flags.parse(words, main.COMMANDS)


def _unpacked(path, text):
    inside = text.rpartition("give ")[2].rstrip(".")
    with zipfile.ZipFile(path) as archive:
        archive.extract(inside, path.parent)
    taken(path.parent / inside)


def _packed(path):
    file = good(path.parent, "inner.safetensors")
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(file, "inner.safetensors")
    file.unlink()


def _as_torch(path, text):
    """What torch.save of a state dict writes, beside the file."""
    taken(torch_files.write(path.with_name("weights.pth"), "zip", **tensors()))


def _folder(path):
    path.mkdir()
    good(path, "inner.safetensors")


def _inside(path, text):
    taken(path / text.rpartition("files: ")[2].rstrip("."))


def _uncompressed(path, text):
    """As zip -0 -r packs it."""
    assert "zip -0 -r" in text
    again = path.with_name("again.pth")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    taken(again)


def _compressed(path):
    file = torch_files.File("zip")
    opcodes = file.dict(**tensors())
    path.write_bytes(file.bytes(opcodes, method=zipfile.ZIP_DEFLATED))


def _object(*behind):
    """A pickle of an object of a class that no weights need."""

    def write(path):
        made = torch_files.Opcodes(b"cmodels\nNet\n)R")
        file = torch_files.File("pickle")
        opcodes = bytes(made)
        for key in behind:
            opcodes = file.dict(**{key: made})
        path.write_bytes(torch_files.pickled(opcodes))

    return write


CODE = torch_files.pickled(b"cposix\nsystem\n(" + b"X\x02\0\0\0ls" + b"tR")
PARTS = json.dumps({"weight_map": {"a": "b.safetensors"}}).encode()
_file("other_files.py:", "Give a file of", "a.pdf", b"%PDF-1.4\n")
_file("other_files.py:", "Save its arrays, by the names", "a.npy",
      b"\x93NUMPY\x01\0")  # fmt: skip
_file("other_files.py:", "Load it there and save the tensors", "a.h5",
      b"\x89HDF\r\n\x1a\n")  # fmt: skip
_file("other_files.py:", "With torch, save the state dict", "a.pt",
      _zip("a/data.pkl", "a/code/x.py", "a/constants.pkl"),
      _as_torch)  # fmt: skip
_file("other_files.py:", "Load them with the library", "a.json", PARTS)
_file("other_files.py:refuse_archive", "It is a packed SavedModel", "a.zip",
      _zip("m/saved_model.pb"), _saved_model)  # fmt: skip
_file("other_files.py:refuse_archive", "Unpack it and give", "a.zip", _packed,
      _unpacked)  # fmt: skip
_file("other_files.py:_folder", "Give one of its files", "folder", _folder,
      _inside)  # fmt: skip
_file("pickle_reader.py:refuse", "save the state dict alone", "a.pth", CODE,
      _as_torch)  # fmt: skip
_file("torch_file.py:read", "Save its state_dict() where", "a.pth", _object(),
      _as_torch)  # fmt: skip
_file("weight_files.py:_no_encoder", "Save the state_dict() of the model",
      "a.pth", _object("model"), _as_torch)  # fmt: skip
_file("torch_file.py:_checked_members", "zip -0 -r", "a.pth", _compressed,
      _uncompressed)  # fmt: skip


# Import.


@ROWS.followed("weights/importing.py:import_weights", "Pass another --workdir")
def workdir_that_holds_a_run(tmp_path, monkeypatch):
    class Read(Exception):
        """The folder was taken: the file is read."""

    def read(*_):
        raise Read

    def start(workdir):
        try:
            importing.import_weights(tmp_path / "x.pth", workdir)
        except Read:
            return "it is read"

    monkeypatch.setattr(importing.weight_files, "read", read)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    yield lambda: start(tmp_path / "run")
    yield lambda: start(tmp_path / "other")


@ROWS.followed("weights/importing.py:_configuration", "Give one of MoCo, or")
def run_of_another_method():
    file = types.SimpleNamespace(
        query=tensors(), can_resume=True, queue=np.zeros([8, 24])
    )
    fields = {"model.width": "0.0625"} | small_weights.FIELDS
    yield lambda: importing._configuration(file, "simclr_cifar10", fields)
    for config in ("moco_v2_imagenet", ""):
        yield lambda c=config: importing._configuration(file, c, fields)


@ROWS.followed("weights/importing.py:_configuration", "An online probe trains")
def probe_of_imported_weights():
    file = types.SimpleNamespace(query=tensors(), can_resume=False)
    start = functools.partial(importing._configuration, file, "")
    text = yield lambda: start({"probe.online": "true"})
    (remedy,) = following.advised(text)
    yield lambda: start(remedy)


@ROWS.followed("weights/importing.py:_check", "encoders, take one with")
def encoder_that_does_not_fit():
    from moco_tf.evaluation import frozen

    config = configs.load(
        "moco_v2_imagenet",
        {
            "model.backbone": "resnet18",
            "model.width": "0.0625",
            **small_weights.FIELDS,
        },
    )
    encoder = frozen.build_encoder(config)

    def check(query, *others):
        file = types.SimpleNamespace(
            query=query, others=list(others), spell=str, spell_key=str
        )
        importing._check(file, encoder, None, pathlib.Path("x"))

    other = types.SimpleNamespace(missing=0, flags="--prefix=two")
    wrong = dict(list(tensors().items())[1:])
    text = yield lambda: check(wrong, other)
    assert text.endswith("--prefix=two")
    yield lambda: check(tensors())  # that of the flag


# Export.


def export(layout="moco", path="x.pth", preset="moco_v2_imagenet", **fields):
    """Checks an export of weights."""
    fields = {name.replace("__", "."): v for name, v in fields.items()}
    config = configs.load(preset, {"data.source": "a"} | fields)
    exporting._check(layout, config, pathlib.Path(path))


def use_export():
    """`export`, which the message names, is a command for any run."""
    flags.parse(["export", "--workdir=x"], main.COMMANDS)


@ROWS.followed("weights/exporting.py:_check", "Published formats hold ResNets")
def network_of_patches():
    yield lambda: export(preset="cpc_imagenet")
    yield use_export


@ROWS.followed("weights/exporting.py:_check", "holds ResNets of torchvision's")
def network_of_another_form():
    yield lambda: export(model__backbone="keras_cv:densenet121")
    yield use_export


@ROWS.followed("weights/exporting.py:_check", "Export it as torchvision")
def small_stem_for_detectron2():
    yield lambda: export("detectron2", "x.pkl", model__stem="cifar")
    yield lambda: export("torchvision", "x.pkl", model__stem="cifar")


@ROWS.followed("weights/exporting.py:_check", "a path that ends in .pkl")
def safetensors_for_detectron2():
    yield lambda: export("detectron2", "x.safetensors")
    yield lambda: export("detectron2", "x.pkl")
    yield lambda: export("torchvision", "x.safetensors")


@ROWS.followed("weights/exporting.py:_check", "Pass --layout=torchvision")
def head_that_moco_lacks():
    yield lambda: export(preset="simclr_imagenet", model__head="simclr")
    yield lambda: export("torchvision", preset="simclr_imagenet")


@ROWS.followed("weights/exporting.py:_check", "Remove it or give another")
def path_that_is_taken(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(b"")
    yield lambda: export(path=path)
    yield lambda: export(path=tmp_path / "y.pth")
    path.unlink()
    yield lambda: export(path=path)


@ROWS.followed("weights/importing.py:_configuration", "from its file alone")
def import_that_starts_from_other_weights(tmp_path):
    path, fields = small(tmp_path), {"model.init": "other"}

    def imported(fields):
        with shallow.network(BLOCKS):
            importing.import_weights(path, tmp_path / "new", overrides=fields)

    yield lambda: imported(fields)
    yield lambda: begin(path)
    yield lambda: imported({"model.init": ""})


# What a run starts from.


BLOCKS = (1, 1, 1, 1)
TINY = {
    "model.backbone": "resnet18",
    "model.width": 0.0625,
    "model.dim": small_weights.DIM,
    "model.bn_groups": 1,
    "data.image_size": 32,
    "moco.queue_size": 64,
    "train.batch_size": 8,
}


def begin(init, preset="moco_v2_imagenet", **fields):
    """How a run starts from weights, in words."""
    fields = {name.replace("__", "."): v for name, v in fields.items()}
    method = configs.load(preset).method
    tiny = {
        n: v for n, v in TINY.items() if n[:5] != "moco." or method == "moco"
    }
    texts = {name: str(value) for name, value in (tiny | fields).items()}
    config = configs.load(preset, {"model.init": str(init)} | texts)
    with shallow.network(BLOCKS):
        weights = origin.read(config.model.init, config.method)
        start = starting.start(weights, conversion.make_method(config), config)
    return start.describe()


def given(text, number=0, **more):
    """Starts as a message advises."""
    fields = {"init": "", **more}
    for name, value in following.advised(text)[number].items():
        name = "init" if name == "model.init" else name
        fields[name.replace(".", "__")] = value
    return begin(**fields)


def small(tmp_path, *lacking):
    """A file of a backbone as TINY describes it."""
    with shallow.network(BLOCKS):
        saved = small_weights.tensors(counted=False)
    kept = {n: v for n, v in saved.items() if n[:2] != "fc"}
    path = tmp_path / "small.safetensors"
    kept = {n: v for n, v in kept.items() if n not in lacking}
    safetensors.numpy.save_file(kept, path)
    return path


def small_two(tmp_path):
    """A file of two encoders, of which no name says that it was trained."""
    saved = safetensors.numpy.load_file(small(tmp_path))
    both = {f"one.{name}": value for name, value in saved.items()}
    both |= {f"two.{name}": value + 1 for name, value in saved.items()}
    path = tmp_path / "two.safetensors"
    safetensors.numpy.save_file(both, path)
    return path


def run_of(tmp_path):
    """A workdir with a checkpoint of step 0."""
    path = tmp_path / "workdir"
    if not path.exists():
        with shallow.network(BLOCKS):
            importing.import_weights(small(tmp_path), path)
    return path


@ROWS.followed("weights/origin.py:_split", "where nothing is. Pass")
def init_that_is_not_there(tmp_path):
    yield lambda: begin(tmp_path / "none")
    yield lambda: begin(small(tmp_path))


@ROWS.followed("weights/origin.py:_split", "is neither. Pass")
def checkpoint_of_no_run(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    text = yield lambda: origin._split(f"{path}@best")
    (advice,) = following.advised(text)
    yield lambda: origin._split(advice["model.init"])


@ROWS.followed("weights/origin.py:_refuse_folder", "or one of its files")
def folder_of_weights(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    yield lambda: begin(path)
    file = small(path)
    yield lambda: begin(file)
    yield lambda: begin(run_of(tmp_path))


@ROWS.followed("weights/origin.py:_refuse_folder", "Pass one of its files")
def folder_of_another_library(tmp_path):
    path = tmp_path / "resnet"
    path.mkdir()
    (path / "config.json").write_text('{"architectures": ["resnet18"]}')
    small(path)
    text = yield lambda: begin(path)
    (advice,) = following.advised(text)
    yield lambda: begin(advice["model.init"])


@ROWS.followed("weights/origin.py:_refuse_folder", "the newest version there")
def folder_of_exports(tmp_path):
    for version in ("2", "10"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").touch()
    text = yield lambda: begin(tmp_path)
    named = following.advised(text)[0]["model.init"]
    assert named == str(tmp_path / "10")
    # tests/weights/test_starting.py starts from an export.
    yield lambda: origin._split(named)


@ROWS.followed("weights/origin.py:_checkpoint", "whose run has saved a check")
def run_without_a_checkpoint(tmp_path):
    path = tmp_path / "empty"
    workdirs.save(configs.load("moco_v2_imagenet"), path)
    yield lambda: begin(path)
    yield lambda: begin(run_of(tmp_path))


@ROWS.followed("weights/origin.py:_checkpoint", "@{known[-1]}.")
def step_that_a_run_has_not(tmp_path):
    text = yield lambda: begin(f"{run_of(tmp_path)}@7")
    yield lambda: given(text)


@ROWS.followed("weights/origin.py:_read_file", "to see the encoders that it")
def choice_of_another_kind(tmp_path):
    path = small_two(tmp_path)
    text = yield lambda: begin(f"{path}@first=one")
    (advice,) = following.advised(text)
    with pytest.raises(ValueError, match="Choose one with") as error:
        begin(advice["model.init"])
    choice = flags_of(str(error.value))[0]
    ending = ",".join(f"{name}={value}" for name, value in choice.items())
    yield lambda: begin(f"{path}@{ending}")


@ROWS.followed("weights/origin.py:_read_file", "they stand behind the file")
def two_encoders_to_start_from(tmp_path):
    text = yield lambda: begin(small_two(tmp_path))
    named = following.advised(text)[-1]["model.init"]
    for choice in flags_of(text)[:2]:
        ending = named.replace("ENTRY", choice["entry"])
        yield lambda e=ending, c=choice: begin(e.replace("PREFIX", c["prefix"]))


@ROWS.followed("weights/origin.py:_read_saved_model", "Pass the workdir of its")
def saved_model_of_another_program(tmp_path):
    path = tmp_path / "model"
    tf.saved_model.save(tf.Module(), str(path))
    yield lambda: begin(path)
    yield lambda: begin(run_of(tmp_path))
    yield lambda: begin(small(tmp_path))


@ROWS.followed("weights/starting.py:_head", "init_head=auto for a new one")
def head_that_is_not_there(tmp_path):
    path = small(tmp_path)
    text = yield lambda: begin(path, model__init_head="file")
    yield lambda: given(text, init=path)


@ROWS.followed("weights/starting.py:_refusal", "or other weights as")
def weights_of_another_stem(tmp_path):
    path = small(tmp_path)
    fields = {"model__stem": "cifar", "model__width": 0.125}
    text = yield lambda: begin(path, **fields)
    flags_in_text = following.advised(text)[0]
    assert set(flags_in_text) == {"model.stem", "model.width"}
    given_fields = {n.replace(".", "__"): v for n, v in flags_in_text.items()}
    yield lambda: begin(path, **fields | given_fields)


@ROWS.followed("weights/starting.py:_refusal", "takes model.input=")
def weights_of_another_input(tmp_path):
    text = yield lambda: begin(small(tmp_path), "cmc_imagenet")
    assert following.advised(text) == [{"model.init": ""}]
    # A start that tests/weights/test_starting.py makes for every method.
    yield lambda: configs.load("cmc_imagenet", following.advised(text)[0])


@ROWS.followed("weights/starting.py:_refusal", "Give weights of such an enc")
def weights_that_lack_a_tensor(tmp_path):
    yield lambda: begin(small(tmp_path, "layer1.0.bn1.bias"))
    yield lambda: begin(small(tmp_path))


@ROWS.followed("weights/starting.py:_notes", "to keep more of them")
def rate_of_random_weights(tmp_path):
    path = small(tmp_path)
    text = yield lambda: begin(path)
    yield lambda: given(text, init=path)


@ROWS.followed("weights/starting.py:_notes", "momentum_warmup_epochs=0")
def momentum_that_rises_from_0(tmp_path):
    path = small(tmp_path)
    text = yield lambda: begin(path, moco__momentum_warmup_epochs=2)
    yield lambda: given(text, number=-1, init=path)


ROWS.states(
    following.NO_MESSAGE,
    ("weights/exporting.py:_notes", "load it into a model of that form"),
)
# torch_file.refused ends those of damaged files: tests/weights tests that.
ROWS.states_rest(following.PART_OF_ANOTHER, "weights/*.py")
