"""The model card of an export: README.md for people, JSON for programs."""

import pathlib
import re

import tensorflow as tf

import moco_tf
from moco_tf import naming, paths, records, state_files
from moco_tf.evaluation import accuracy
from moco_tf.methods import table
from moco_tf.models import encoder as encoders
from moco_tf.models import saved_models
from moco_tf.monitoring import metrics_csv
from moco_tf.serving import signatures
from moco_tf.training import checkpoints

UNSPECIFIED = "unspecified"  # licence
# Of a path or a source: what Markdown shows as it stands.
_PLAIN_IN_MARKDOWN = re.compile(r"[\w .,:@=+/-]*")


def describe(
    encoder,
    name,
    version,
    described,
    licence="",
    workdir="",
    linear=None,
    bank="",
    keras_note="",
):
    """Collects the content of model_card.json.

    Args:
      encoder: frozen.FrozenEncoder of a run.
      name, version: of the export.
      described: its signatures, as signatures.describe lists them; {} of an
        export without.
      licence: text; "" is written as unspecified.
      workdir: of the run; "": its figures and its data stay unknown.
      linear: dict of the linear head's result.json; None or {} without.
      bank: title of the labelled features; "" without them.
      keras_note: why there is no .keras file; "" if there is.

    Returns:
      dict that JSON can hold.
    """
    config, recipe = encoder.config, encoder.recipe
    folder = pathlib.Path(encoder.title)
    meta = {}
    if (folder / "meta.json").is_file():
        meta = checkpoints.read_meta(folder)
    return {
        "name": name,
        "version": version,
        "licence": licence.strip() or UNSPECIFIED,
        "moco_tf": moco_tf.__version__,
        "tensorflow": tf.__version__,
        "encoder": _encoder(encoder, meta),
        "preprocessing": {
            "views": config.data.views,
            "image_size": encoder.image_size,
            "mean": list(recipe.mean),
            "std": list(recipe.std),
        },
        "data": _data(config, meta, workdir),
        "metrics": {
            **_newest_knn(config, meta, workdir),
            **({"linear": linear} if linear else {}),
        },
        "signatures": described,
        "bank": bank,
        "keras_file": "" if keras_note else "encoder.keras",
        "keras_note": keras_note,
        "config": config.to_dict(),
    }


def _encoder(encoder, meta):
    """The network and how long it was trained."""
    config = encoder.config
    return {
        "identity": encoder.identity,
        "method": config.method,
        "input": config.model.input,
        "backbone": config.model.backbone,
        "width": config.model.width,
        "stem": config.model.stem,
        "features": encoders.feature_size(encoder.encoder.backbone),
        "trained_in": config.train.precision,
        "exported_in": "float32",
        "step": meta.get("step"),
        "epoch": meta.get("epoch"),
        **_origin(meta),
    }


def _origin(meta):
    """Of a checkpoint that `import-weights` wrote, what it is of, else {}."""
    imported = meta.get("imported")
    if not imported:
        return {}
    return {"imported": {name: imported[name] for name in ("file", "layout")}}


def _data(config, meta, workdir):
    """The data of the training, as far as the run noted them."""
    images = None
    if meta.get("epoch") and meta["step"]:
        steps = round(meta["step"] / meta["epoch"])
        images = steps * config.train.batch_size  # whole batches
    fingerprint = ""
    if workdir:
        saved = records.read_saved(workdir)
        fingerprint = saved.get("data_fingerprint", "")
    return {
        "source": as_given(config, workdir, "data.source"),
        "fingerprint": fingerprint,
        "images_per_epoch": images,
    }


def as_given(config, workdir, field):
    """A source as the run's command named it: no path of this machine more."""
    values = config.to_dict()
    if workdir:
        saved = records.read_saved(workdir)
        values = saved["config"]
    section, _, key = field.partition(".")
    return values[section][key]


def _newest_knn(config, meta, workdir):
    """{"knn": …} of the newest epoch that the checkpoint has seen, or {}."""
    path = pathlib.Path(workdir) / "metrics.csv"
    if not workdir or not path.is_file():
        return {}
    rows = [
        row
        for row in metrics_csv.read(path)
        if row.get("knn_backbone") is not None
        and row["step"] <= meta.get("step", row["step"])
    ]
    if not rows:
        return {}
    newest = rows[-1]
    return {
        "knn": {
            "step": newest["step"],
            "epoch": newest["epoch"],
            "backbone": newest["knn_backbone"],
            "projection": newest["knn_projection"],
            "k": config.knn.k,
            "temperature": config.knn.temperature,
            "bank": as_given(config, workdir, "knn.bank"),
            "query": as_given(config, workdir, "knn.query"),
        }
    }


def write(folder, card):
    """Writes model_card.json, README.md and signatures.txt."""
    folder = pathlib.Path(folder)
    if (folder / "saved_model.pb").is_file():
        card = {**card, saved_models.CHECKSUM: saved_models.checksum(folder)}
    state_files.write_json(folder / saved_models.CARD, card)
    text = naming.as_text(readme(card))
    (folder / "README.md").write_text(text, encoding="utf-8")
    listing = signatures.text(card["signatures"])
    (folder / "signatures.txt").write_text(listing, encoding="utf-8")


def readme(card):
    """The text of README.md, of a card from `describe`."""
    listed = signatures.text(card["signatures"]).rstrip()
    taken = f"```\n{listed}\n```\n\n{_preprocessing(card['preprocessing'])}"
    return page(card, taken, _use(card))


def page(card, taken, use):
    """The text of a README.md.

    Args:
      card: of `describe`.
      taken: Markdown, what the export takes and gives. use: Markdown.
    """
    encoder = card["encoder"]
    image = "an image"
    if encoder["input"] == "pair":
        image = "an image of two aligned files"
    parts = [
        f"# {card['name']}, version {card['version']}",
        f"An image encoder, {_making(card)}. It turns {image} into "
        f"{encoder['features']} numbers; similar images get similar numbers.",
        _facts(card),
        "## Licence\n\n" + _licence(card),
        "## Figures\n\n" + _figures(card["metrics"]),
        "## Input and output\n\n" + taken,
        "## Use\n\n" + use,
        "## Limits\n\n" + _limits(card),
    ]
    return "\n\n".join(parts) + "\n"


def method_of(card):
    """The Entry of the method that trained the encoder; None: not known.

    A file of another library says nothing of its training, but for one in the
    layout of MoCo's own checkpoints, with a queue.
    """
    encoder = card["encoder"]
    if encoder.get("imported", {}).get("layout", "moco") != "moco":
        return None
    return table.METHODS[encoder["method"]]


def _making(card):
    """How the encoder came to be, in words."""
    encoder, method = card["encoder"], method_of(card)
    words = f"with moco_tf {card['moco_tf']}"
    if "imported" in encoder:
        words = f"imported from {_literal(encoder['imported']['file'])} {words}"
    if method is None:
        return f"{words}, which does not know how it was trained"
    papers = " and ".join(f"arXiv:{paper}" for paper in method.papers)
    return f"trained without labels by {method.title} ({papers}) {words}"


def _length(encoder):
    """How long an encoder was trained, in words."""
    counts = [(encoder["step"], "steps"), (encoder["epoch"], "epochs")]
    if "imported" in encoder:  # 0: the file does not say
        counts = [(count or None, unit) for count, unit in counts]
    known = [f"{x:.12g} {unit}" for x, unit in counts if x is not None]
    return ", ".join(known) or "not noted"


def _facts(card):
    encoder, data = card["encoder"], card["data"]
    images, length = data["images_per_epoch"], _length(encoder)
    if "imported" not in encoder:
        length += f", in {encoder['trained_in']}"
    rows = {
        "backbone": f"{encoder['backbone']}, width {encoder['width']:g}, "
        f"{encoder['stem']} stem",
        "trained": length,
        "exported in": encoder["exported_in"],
        "data": _literal(data["source"]),
        "images an epoch": "not noted" if images is None else f"{images:,}",
        "data fingerprint": data["fingerprint"] or "not noted",
        "encoder identity": encoder["identity"],
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _licence(card):
    if card["licence"] != UNSPECIFIED:
        return f"{card['licence']}"
    return (
        "Unspecified: who exported this did not say under which terms it may "
        "be used. Ask before you share it."
    )


def _figures(metrics):
    """One line a figure; a share of 0..1 as per cent."""
    lines = []
    if "knn" in metrics:
        knn = metrics["knn"]
        lines.append(
            f"* nearest neighbours (k = {knn['k']}, temperature "
            f"{knn['temperature']:g}), {_literal(knn['query'])} among "
            f"{_literal(knn['bank'])}: "
            f"{100 * knn['backbone']:.2f} % top-1 after {knn['step']} steps"
        )
    if "linear" in metrics:
        linear = metrics["linear"]
        lines.append(
            f"* linear classifier on frozen features ({linear['way']}): "
            + accuracy.describe(linear)
        )
    return "\n".join(lines) or "None were measured."


def _literal(text):
    """A source's text as Markdown shows it, in a table too."""
    text = paths.shown(text)
    if _PLAIN_IN_MARKDOWN.fullmatch(text):
        return text
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " * (text.startswith("`") or text.endswith("`"))
    text = text.replace("|", r"\|")
    return f"{fence}{pad}{text}{pad}{fence}"


def _preprocessing(settings):
    mean, std = (
        ", ".join(f"{value:g}" for value in settings[name])
        for name in ("mean", "std")
    )
    return (
        "Bytes and pixels are resized and cut to the centre as in moco_tf's "
        f"evaluation ({settings['views']} views, "
        f"{settings['image_size']} pixels), "
        f"then normalised with mean ({mean}) and std ({std}) of pixels in "
        "0..1. `embed_tensors` expects that done, and one row or more."
    )


def _use(card):
    name, pairs = card["name"], card["encoder"]["input"] == "pair"
    second = ", second_bytes=others" if pairs else ""
    lines = f"""\
With TensorFlow alone:

```python
import tensorflow as tf

encoder = tf.saved_model.load("{name}/{card["version"]}")
files = tf.constant([open("photo.jpg", "rb").read()])
rows = encoder.signatures["serving_default"](
    image_bytes=files{second}
)["features"]

# To train on: normalised float32 images in, gradients to its variables.
features = encoder(images, training=True)
encoder.trainable_variables
```

Over HTTP, from TensorFlow Serving:

```
{curl(name, pairs)}
```
"""
    if card["keras_file"]:
        lines += f"""
In Keras 2 (TensorFlow up to 2.15, later with the package tf-keras and
TF_USE_LEGACY_KERAS=1), without this package's code; Keras 3 cannot load this
file, the SavedModel above loads in every TensorFlow 2:

```python
encoder = tf.keras.models.load_model("{name}/{card["version"]}/encoder.keras")
```
"""
    return lines.rstrip()


def _limits(card):
    lines = []
    if card["encoder"]["trained_in"] != "float32":
        lines.append(
            f"* Its run computes in {card['encoder']['trained_in']}, and it is "
            "exported in float32: features differ in the last digits from "
            "those that the figures were measured with."
        )
    if card["keras_note"]:
        lines.append(f"* There is no .keras file. {card['keras_note']}")
    if card["bank"]:
        lines.append(
            "* `neighbours` carries the features and labels of "
            f"{_literal(card['bank'])}."
        )
    lines.append(
        "* What it sees in images, and what it misses, comes from the data "
        "above. It was measured on nothing else."
    )
    return "\n".join(lines)


def curl(name, pairs=False):
    """A shell command that sends photo.jpg, of any length, to a server.

    Args:
      name: of the model. pairs: bool, whether depth.png goes with it.
    """
    row = """{"b64": "'; base64 -w0 photo.jpg; printf '"}"""
    if pairs:
        other = row.replace("photo.jpg", "depth.png")
        row = f"""{{"image_bytes": {row}, "second_bytes": {other}}}"""
    return (
        f"""(printf '{{"instances": [{row}]}}') \\\n"""
        "  | curl --data-binary @- "
        f"http://localhost:8501/v1/models/{name}:predict"
    )
