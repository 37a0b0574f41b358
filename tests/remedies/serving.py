"""Rows of serving/: exports and conversions, and requests to a server."""

import base64
import gzip
import importlib.util
import io
import json
import shlex
import shutil
import time
import types

import numpy as np
import tensorflow as tf

from moco_tf import config as configs
from moco_tf.cli import flags, main
from moco_tf.evaluation import embeddings
from moco_tf.serving import (
    batching,
    convert,
    export,
    labelling,
    predict_api,
    request_body,
    server,
)
from tests.evaluation import plain_frozen
from tests.remedies import following

ROWS = following.Rows("serving/*.py")

# Requests.

FILES = {"image_bytes": predict_api.Input(np.dtype("S"), (None,))}
SIGNATURES = {
    "serving_default": FILES,
    "embed_tensors": {
        "images": predict_api.Input(np.dtype(np.float32), (None, 2, 2, 3))
    },
    "two": FILES | {"pixels": predict_api.Input(np.dtype(np.uint8), (None, 2))},
}
IMAGE = {"b64": base64.b64encode(b"the bytes of a file").decode()}
PIXELS = np.zeros([2, 2, 3]).tolist()
FORM = json.dumps({"instances": [IMAGE]})


def parse(body, rows=4, **message):
    """Reads a body: bytes, or the fields of a message."""
    if body is None:
        body = json.dumps(message).encode()
    return predict_api.parse(body, SIGNATURES, rows)


def _request(words, refused, *mended, place="parse"):
    """A row of a request, and of those that are advised."""

    @ROWS.followed(f"serving/predict_api.py:{place}", words)
    def row():
        yield lambda: parse(**refused)
        for other in mended:
            yield lambda taken=other: parse(**taken)


def rows(*instances, **more):
    return {"body": None, "instances": list(instances)} | more


_request("must be JSON: {error}. Send", {"body": b"{"}, {"body": FORM})
_request("must be a JSON object. Send", {"body": b"[1]"}, {"body": FORM})
_request("Give either", {"body": b"{}"}, rows(IMAGE), {
    "body": None, "inputs": {"image_bytes": [IMAGE]}})  # fmt: skip
_request("Send the others in another request", rows(*[IMAGE] * 5),
         rows(*[IMAGE] * 4), rows(IMAGE))  # fmt: skip
_request("Write", rows(IMAGE, signature="embed_tensors"),
         rows(PIXELS, signature_name="embed_tensors"),
         place="_signature")  # fmt: skip
_request("There is no signature", rows(IMAGE, signature_name="embed"),
         rows(IMAGE, signature_name="serving_default"),
         rows(PIXELS, signature_name="embed_tensors"),
         place="_signature")  # fmt: skip
_request("Each row must name its inputs", rows(IMAGE, signature_name="two"),
         rows({"image_bytes": IMAGE, "pixels": [1, 2]}, signature_name="two"),
         place="_columns")  # fmt: skip
_request("Files go to a signature of bytes",
         rows(IMAGE, signature_name="embed_tensors"), rows(IMAGE),
         place="_array")  # fmt: skip
_request("must have the shape", rows([1, 2], signature_name="embed_tensors"),
         rows(PIXELS, signature_name="embed_tensors"),
         place="_array")  # fmt: skip
_request("Pixels are normalised", rows(
    (np.ones([2, 2, 3]) * 1e39).tolist(), signature_name="embed_tensors"),
    rows(PIXELS, signature_name="embed_tensors"),
    place="_check_float32")  # fmt: skip
_request("TEXT the base64 of", rows("cat.jpg"), rows(IMAGE), place="_bytes")
_request("Send the base64 of the file's bytes", rows({"b64": "?!"}),
         rows(IMAGE), place="_not_base64")  # fmt: skip


def body_of(data, packing="", limit=2**20):
    """Reads the body of a request as the server does."""
    environ = {
        "CONTENT_LENGTH": str(len(data)),
        "wsgi.input": io.BytesIO(data),
        "HTTP_CONTENT_ENCODING": packing,
    }
    return request_body.read(environ, limit)


def _body(place, words, refused, *mended):
    @ROWS.followed(f"serving/request_body.py:{place}", words)
    def row():
        yield lambda: answer(**refused)
        for other in mended:
            yield lambda taken=other: answer(**taken)


def answer(data, packing="", kind="", limit=2**20):
    """Reads and parses a body; explains what it is instead."""
    body = body_of(data, packing, limit)
    try:
        parse(body)
    except predict_api.RequestError as error:
        raise request_body.explained(error, body, kind) from None


SENT = FORM.encode()
PACKED = gzip.compress(SENT, mtime=0)
MENDED = {"data": SENT}
_body("read", "The body is missing. Send JSON", {"data": b""}, MENDED)
_body("read", "Leave the header out and send", {"data": SENT, "packing": "br"},
      MENDED, {"data": PACKED, "packing": "gzip"})  # fmt: skip
_body("_too_large", "Send fewer rows in a", {"data": SENT * 9, "limit": 99},
      {"data": SENT, "limit": 99})  # fmt: skip
_body("_damaged", "Leave the header out where", {"data": SENT,
      "packing": "gzip"}, MENDED)  # fmt: skip
_body("explained", "Add the header Content-Encoding: gzip", {"data": PACKED},
      {"data": PACKED, "packing": "gzip"})  # fmt: skip
_body("explained", "Put it in: ", {
    "data": base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(99))},
    MENDED)  # fmt: skip
_body("explained", "For a file: (printf", {"data": b"\x89PNG\r\n\x1a\n"},
      MENDED)  # fmt: skip
_body("explained", "Received a form (multipart). Send", {
    "data": b"--x\r\n", "kind": "multipart/form-data"}, MENDED)  # fmt: skip


def app():
    """A server's application, without a model."""
    made = server.RestApp.__new__(server.RestApp)
    made._name, made._version = "encoder", 3
    made._limits = server.DEFAULT_LIMITS
    return made


def _path(words, refused, *mended, place="_find"):
    @ROWS.followed(f"serving/server.py:RestApp.{place}", words)
    def row():
        yield lambda: app()._find(refused)
        for path in mended:
            yield lambda taken=path: app()._find(taken)


MODEL = "/v1/models/encoder"
_path("The model is", "/v1/models/other:predict", f"{MODEL}:predict")
_path("Versions have no labels", f"{MODEL}/labels/best:predict",
      f"{MODEL}/versions/3:predict", f"{MODEL}:predict")  # fmt: skip
_path("Use :predict; for classes", f"{MODEL}:classify", f"{MODEL}:predict")
_path("A version has up to", f"{MODEL}/versions/{'9' * 99}:predict",
      f"{MODEL}/versions/3:predict", f"{MODEL}:predict",
      place="_check_version")  # fmt: skip
_path("is not served; ", f"{MODEL}/versions/4:predict",
      f"{MODEL}/versions/3:predict", place="_check_version")  # fmt: skip


@ROWS.followed("serving/server.py:RestApp._answer", "Use {verbs.split")
def another_verb(monkeypatch):
    monkeypatch.setattr(server.RestApp, "_status", lambda self: {})

    def ask(verb):
        environ = {"REQUEST_METHOD": verb, "PATH_INFO": MODEL}
        return app()._answer(environ)

    text = yield lambda: ask("DELETE")
    verb = text.removeprefix("Use ").split()[0]
    yield lambda: ask(verb)


@ROWS.followed("serving/batching.py:Batcher.submit", "Try again later")
def too_many_rows_at_once():
    batcher = batching.Batcher(lambda _, inputs: inputs, 4, 0.0)
    inputs = {"x": np.zeros([1, 2])}
    full = types.SimpleNamespace(rows=10**9)

    def submit(waiting):
        batcher._rows = waiting.rows
        return batcher.submit("s", inputs, 5.0)["x"].shape

    yield lambda: submit(full)
    yield lambda: submit(types.SimpleNamespace(rows=0))
    batcher.close()


@ROWS.followed("serving/batching.py:Batcher.submit", "Send fewer rows in a")
def model_that_takes_too_long():
    def run(signature, inputs):
        time.sleep(0.05 * len(inputs["x"]))
        return inputs

    batcher = batching.Batcher(run, 9, 0.0)

    def submit(rows, seconds=0.2):
        return batcher.submit("s", {"x": np.zeros([rows, 2])}, seconds)["x"]

    yield lambda: len(submit(9))
    yield lambda: len(submit(1, seconds=5.0))  # later
    yield lambda: len(submit(1, seconds=1.0))  # fewer rows
    batcher.close()


@ROWS.followed("serving/predict_api.py:render", "Send normalised pixels, or")
def features_that_json_cannot_hold():
    def render(pixels):
        with np.errstate(over="ignore"):
            squares = np.float32(pixels) ** 2
        return predict_api.render({"features": squares}, by_row=True)

    yield lambda: render([[1e30, 0.0]])
    yield lambda: render([[1.5, -2.0]])


@ROWS.followed("serving/server.py:RestApp.__init__", "Pass --name=encoder")
def name_that_no_path_holds(monkeypatch):
    class Found(Exception):
        """The name was taken: a model is looked for."""

    def newest(path):
        raise Found

    def make(name):
        try:
            server.RestApp("x", name)
        except Found:
            return name

    monkeypatch.setattr(server, "newest_version", newest)
    text = yield lambda: make("a/b")
    yield lambda: make(text.rpartition("--name=")[2].rstrip("."))


# Exports.


def exported(folder):
    """A SavedModel as far as its name goes."""
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"")
    return folder


@ROWS.followed("serving/server.py:newest_version", "Make one with moco-tf exp")
def folder_without_a_model(tmp_path):
    yield lambda: server.newest_version(tmp_path / "export")
    assert "export" in main.COMMANDS
    exported(tmp_path / "export" / "1")
    yield lambda: server.newest_version(tmp_path / "export")


@ROWS.followed("serving/convert.py:open_export", "Make one with moco-tf export")
def model_that_is_no_export(tmp_path):
    class Model(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32)]
        )
        def embed(self, images):
            return {"features": tf.reduce_mean(images, [1, 2])}

    model = Model()

    def open_model(name, card):
        folder = tmp_path / name
        tf.saved_model.save(model, str(folder), {name: model.embed})
        if card:
            card = {"preprocessing": {"views": "v1", "image_size": 8}}
            (folder / "model_card.json").write_text(json.dumps(card))
        convert.open_export(folder)

    yield lambda: open_model("serving_default", False)
    # tests/serving/test_export.py: `export` writes the signature and the card.
    yield lambda: open_model(convert.SIGNATURE, True)


@ROWS.followed("serving/convert.py:_format", "--to must be one of")
def unknown_format():
    text = yield lambda: convert._format("onx")
    name = following.suggested(text)
    yield lambda: convert.FORMATS[name]


@ROWS.followed("serving/convert.py:_format", "pip install -e '.[convert]'")
def packages_that_are_missing(monkeypatch):
    import tomllib

    from tests.remedies import messages

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    text = yield lambda: convert._format("onnx")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: real(name) or name
    )
    yield lambda: convert._format("onnx")  # they are installed
    project = tomllib.loads((messages.ROOT / "pyproject.toml").read_text())
    extra = " ".join(project["project"]["optional-dependencies"]["convert"])
    named = text.partition("packages ")[2].partition(".")[0].split(", ")
    for name in named:
        yield lambda wanted=name: extra.index(wanted.replace("_", "-"))


@ROWS.followed("serving/convert.py:_refuse_existing", "or give another by")
def path_that_is_taken(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    yield lambda: convert._refuse_existing(path)
    yield lambda: convert._refuse_existing(tmp_path / "other.onnx")
    path.unlink()
    yield lambda: convert._refuse_existing(path)


@ROWS.followed("serving/convert.py:_normalised", "Give another by --images")
def images_that_cannot_be_read(tmp_path, capsys):
    from moco_tf.data import views

    model = types.SimpleNamespace(recipe=views.RECIPES["v1"], image_size=8)
    broken = plain_frozen.write_greys(tmp_path / "a", {"1.png": None})
    right = plain_frozen.write_greys(tmp_path / "b", {"1.png": 9})

    def compare(spec):
        convert._normalised(convert._images(spec, 3), model)

    yield lambda: compare(broken)
    yield lambda: compare(right)


@ROWS.followed("serving/export.py:export_run", "Give --workdir")
def export_of_no_run(tmp_path):
    yield lambda: export.export_run(plain_frozen.make_frozen(), tmp_path, "x")
    words = ["export", "--workdir=x"]  # tests/serving/test_export.py runs it
    yield lambda: flags.parse(words, main.COMMANDS)


@ROWS.followed("serving/export.py:version_folder", "Leave --version out")
def version_that_is_there(tmp_path):
    exported(tmp_path / "encoder" / "2")
    yield lambda: export.version_folder(tmp_path, "encoder", 2)
    yield lambda: export.version_folder(tmp_path, "encoder")


@ROWS.followed("serving/export.py:_write_models", "Free space, or give another")
def export_to_a_full_disk(tmp_path, monkeypatch):
    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left")

    encoder = plain_frozen.make_frozen()
    served = types.SimpleNamespace(signatures=dict)
    monkeypatch.setattr(export.signatures, "describe", lambda _: {})
    monkeypatch.setattr(export.warm_up, "requests", lambda *_: [])
    monkeypatch.setattr(export.warm_up, "write", lambda *_: None)

    def write(folder, save):
        monkeypatch.setattr(tf.saved_model, "save", save)
        export._write_models(folder, served, encoder, "x")

    yield lambda: write(tmp_path, full)
    yield lambda: write(tmp_path / "other", lambda *_, **__: None)
    yield lambda: write(tmp_path, lambda *_, **__: None)


@ROWS.followed("serving/export.py:keras_line", "use the SavedModel there")
def keras_file_in_keras_3(tmp_path):
    card = {"keras_file": "encoder.keras", "keras_note": ""}
    yield lambda: export.keras_line(card)
    # Without the file: the note of why, which is no such line.
    yield lambda: export.keras_line({"keras_file": "", "keras_note": "none"})


def head(path, features=2, identity="ab" * 32, layer="backbone", **arrays):
    """Writes the linear.npz of `linear`, and its result.json."""
    path.mkdir(exist_ok=True)
    values = {
        "kernel": np.zeros([features, 2], np.float32),
        "bias": np.zeros(2, np.float32),
        "classes": np.array(["a", "b"]),
    }
    np.savez(path / "linear.npz", **values | arrays)
    result = {"encoder_identity": identity, "features": layer}
    (path / "result.json").write_text(json.dumps(result))
    return path


def open_head(path, identity="ab" * 32):
    encoder = plain_frozen.make_frozen(identity=identity)
    return labelling.open_head(path, encoder, 2)


def _head(place, words, refused, *mended, identity="ab" * 32):
    """A row of a head; `linear` writes those that are taken."""

    @ROWS.followed(f"serving/labelling.py:{place}", words)
    def row(tmp_path):
        yield lambda: open_head(head(tmp_path / "a", **refused), identity)
        for number, other in enumerate(mended):
            folder = tmp_path / f"b{number}"
            yield lambda f=folder, o=other: open_head(head(f, **o), identity)


_head("open_head", "Train one with `moco-tf linear` on", {"features": 5}, {})
_head("_check_origin", "Give the head's own", {"identity": "cd" * 32}, {})
_head("_check_origin", "--config.probe.features=backbone",
      {"layer": "projection"}, {"layer": "backbone"})  # fmt: skip
_head("_read_head", "must hold a finite kernel", {"bias": np.zeros(3)}, {})


@ROWS.followed("serving/labelling.py:open_head", "with the same --output: it")
def head_with_a_damaged_result(tmp_path):
    folder = head(tmp_path / "linear")
    (folder / "result.json").write_text("{")
    yield lambda: open_head(folder)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(folder / "linear.npz", alone)
    yield lambda: open_head(alone)
    # tests/evaluation/test_linear.py: the command sets the file aside.
    (folder / "result.json").rename(folder / "result.json.damaged-1")
    head(folder)
    yield lambda: open_head(folder)


@ROWS.followed("serving/labelling.py:_read_head", "must be the linear.npz of")
def file_that_is_no_head(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, kernel=np.zeros(2))
    yield lambda: open_head(path)
    yield lambda: open_head(head(tmp_path / "linear"))


def bank(tmp_path, name="bank.npz", identity="ab" * 32, **options):
    """Writes features as `embed` does."""
    spec = plain_frozen.write_greys(
        tmp_path / "images", {"a/1.png": 1, "b/1.png": 99}
    )
    path = tmp_path / name
    encoder = plain_frozen.make_frozen(identity=identity)
    embeddings.embed_source(encoder, spec, path, **options)
    return path


@ROWS.followed("serving/labelling.py:_read_bank", "from the same --checkpoint")
def bank_of_another_encoder(tmp_path):
    encoder = plain_frozen.make_frozen()
    other = bank(tmp_path, "other.npz", "cd" * 32)
    yield lambda: labelling._read_bank(other, encoder)
    same = bank(tmp_path)
    yield lambda: labelling._read_bank(same, encoder)


@ROWS.followed("serving/labelling.py:_read_bank", "embed --features=backbone")
def bank_of_projections(tmp_path):
    encoder = plain_frozen.make_frozen()
    other = bank(tmp_path, "other.npz", layers=("projection",))
    yield lambda: labelling._read_bank(other, encoder)
    same = bank(tmp_path, layers=("backbone",))
    yield lambda: labelling._read_bank(same, encoder)


@ROWS.followed("serving/labelling.py:_check_labels", "Give a folder of class")
def bank_without_labels(tmp_path):
    encoder = plain_frozen.make_frozen()
    flat = plain_frozen.write_greys(tmp_path / "flat", {"1.png": 9})
    path = tmp_path / "flat.npz"
    embeddings.embed_source(encoder, flat, path)
    yield lambda: labelling._read_bank(path, encoder)
    features = bank(tmp_path)
    yield lambda: labelling._read_bank(features, encoder)
    encoder = encoder._replace(
        config=types.SimpleNamespace(
            knn=types.SimpleNamespace(k=1, temperature=0.1)
        )
    )
    folder = f"folder:{tmp_path / 'images'}"
    yield lambda: labelling.open_bank(folder, encoder)


@ROWS.followed("serving/hub_folder.py:_use", "--config.data.image_size=")
def folder_that_is_taken_in_again():
    from moco_tf.serving import hub_folder

    settings = {"image_size": 64, "views": "v2"}
    encoder = {"width": 1.0, "stem": "cifar"}
    card = {"name": "stl", "layout": "torchvision", "encoder": encoder}
    text = yield lambda: hub_folder._use(card | {"preprocessing": settings})
    command = text.partition("```sh\nmoco-tf ")[2].partition("```")[0]
    words = shlex.split(command.replace("\\\n", ""))
    parsed = flags.parse(words, main.COMMANDS, main._fields)[2]
    assert parsed == {"data.image_size": "64", "data.views": "v2"}
    yield lambda: configs.load("moco_cifar10", parsed)


@ROWS.followed("serving/model_card.py:_licence", "Ask before you share it")
def weights_without_a_licence():
    from moco_tf.serving import model_card

    def line(licence):
        return str(model_card._licence({"licence": licence}))

    yield lambda: line(model_card.UNSPECIFIED)
    yield lambda: line("CC BY 4.0")


@ROWS.followed("serving/convert.py:convert_export", "Try the versions of the")
def conversion_that_differs(tmp_path, monkeypatch, capsys):
    from moco_tf.data import views

    model = types.SimpleNamespace(
        folder=tmp_path,
        loaded=None,
        image_size=8,
        recipe=views.RECIPES["v1"],
        channels=3,
    )
    for name, value in (
        ("open_export", model),
        ("_normalised", np.zeros([1, 8, 8, 3])),
        ("_images", []),
    ):
        monkeypatch.setattr(convert, name, lambda *_, v=value: v)
    monkeypatch.setattr(server, "newest_version", lambda _: (tmp_path, 1))
    form = types.SimpleNamespace(
        suffix=".x", write=lambda folder, loaded, part: part.write_bytes(b"x")
    )
    monkeypatch.setattr(convert, "_format", lambda _: form)

    def run(relative):
        differences = [types.SimpleNamespace(relative=relative)]
        monkeypatch.setattr(convert, "_compare", lambda *_: differences)
        path = tmp_path / "model.x"
        convert.convert_export(tmp_path, "x", path)
        path.unlink()

    yield lambda: run(0.5)
    # Of the locked versions, tests/serving/test_convert.py tries each format.
    yield lambda: run(0.0)


ROWS.states(
    following.SAYS_WHAT_IS_TAKEN,
    ("serving/export.py:version_folder", "--name must be of"),
    ("serving/export.py:version_folder", "--version must be"),
    ("serving/predict_api.py:parse", "All inputs must have as many"),
    ("serving/predict_api.py:_columns", "must be a list of rows"),
    ("serving/predict_api.py:_named", "lists of rows"),
    ("serving/predict_api.py:_named", "must be a list, not empty"),
    ("serving/predict_api.py:_array", "whole numbers from 0"),
    ("serving/server.py:RestApp._check_pixels", "must not have more than"),
)
ROWS.states(
    following.PART_OF_ANOTHER,
    ("serving/export.py:stock_model", "must hold layers of Keras"),
    ("serving/labelling.py:open_bank", "must have labels"),
    ("serving/predict_api.py:_no_name_twice", "twice"),
)
# The program checks itself here: what it wrote is not what it read.
ROWS.states(
    following.NO_REMEDY,
    ("serving/comparison.py:_embed_by_signatures", "zeros for what is none"),
    ("serving/comparison.py:_check_classes", "must give what its parts"),
    ("serving/comparison.py:_check", "must give the run's features"),
    ("serving/hub_folder.py:_check", "must give the features of the encoder"),
)
