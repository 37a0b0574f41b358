"""The model card of an export: README.md for people, a JSON for programs."""

import pathlib

import tensorflow as tf

import moco_tf
from moco_tf import workdirs
from moco_tf.monitoring import metrics_csv
from moco_tf.serving import model_card_text, signature_list
from moco_tf.training import checkpoints


def describe(
    judged,
    name,
    version,
    described,
    licence="",
    workdir="",
    linear=None,
    bank="",
    keras_note="",
):
    """Collects what is known of an encoder.

    Args:
      judged: frozen.Frozen of a run.
      name, version: of the export.
      described: of its signatures, as signature_list.describe gives it.
      licence: text; "" is written as unspecified.
      workdir: of the run; "": its figures and its data stay unknown.
      linear: dict of the linear head's result.json; None or {} without.
      bank: what the bank was made of; "" without one.
      keras_note: why there is no .keras file; "" if there is.

    Returns:
      dict that JSON can hold, the content of model_card.json.
    """
    config, recipe = judged.config, judged.recipe
    folder = pathlib.Path(judged.title)
    meta = {}
    if (folder / "meta.json").is_file():
        meta = checkpoints.read_meta(folder)
    return {
        "name": name,
        "version": version,
        "licence": licence.strip() or model_card_text.UNSPECIFIED,
        "moco_tf": moco_tf.__version__,
        "tensorflow": tf.__version__,
        "encoder": _encoder(judged, meta, described),
        "preprocessing": {
            "views": config.data.views,
            "image_size": judged.image_size,
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


def _encoder(judged, meta, described):
    """What the network is, and how long it was trained."""
    config = judged.config
    outputs = described["embed_tensors"]["outputs"]
    return {
        "identity": judged.identity,
        "method": config.method,
        "input": config.model.input,
        "backbone": config.model.backbone,
        "width": config.model.width,
        "stem": config.model.stem,
        "features": outputs["features"]["shape"][-1],
        "trained_in": config.train.precision,
        "exported_in": "float32",
        "step": meta.get("step"),
        "epoch": meta.get("epoch"),
    }


def _data(config, meta, workdir):
    """What the encoder was trained on, as far as the run noted it."""
    images = None
    if meta.get("epoch"):
        steps = round(meta["step"] / meta["epoch"])
        images = steps * config.train.batch_size  # whole batches
    fingerprint = ""
    if workdir:
        saved = workdirs.read_json(pathlib.Path(workdir) / "config.json")
        fingerprint = saved.get("data_fingerprint", "")
    return {
        "source": config.data.source,
        "fingerprint": fingerprint,
        "images_per_epoch": images,
    }


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
            "bank": config.knn.bank,
            "query": config.knn.query,
        }
    }


def write(folder, card):
    """Writes model_card.json, README.md and signatures.txt."""
    folder = pathlib.Path(folder)
    workdirs.write_json(folder / "model_card.json", card)
    (folder / "README.md").write_text(
        model_card_text.readme(card), encoding="utf-8"
    )
    listing = signature_list.text(card["signatures"])
    (folder / "signatures.txt").write_text(listing, encoding="utf-8")
