"""A folder for Hugging Face's hub (`export --format=hf`).

OUTPUT/NAME-hf/VERSION/
    model.safetensors         the backbone's tensors, and nothing else
    config.json               what network they are of, as timm reads it
    preprocessor_config.json  how images become its input, as transformers reads
    README.md                 the model card, its metadata in front
    model_card.json           the same for programs, as of the other exports

A ResNet with BatchNorm has the names and the layout of torchvision and timm:
"layer1.0.conv1.weight", [out, in, height, width], and BatchNorm's counters. Any
other backbone has the names of its Keras variables with dots, in Keras' layout
([height, width, in, out]). config.json says which, as "layout". No file here is
sent anywhere.
"""

import json
import pathlib

import numpy as np
import safetensors.numpy
import tensorflow as tf

from moco_tf import (
    filesystem,
    lane,
    naming,
    paths,
    resuming,
    state_files,
)
from moco_tf.data import views
from moco_tf.evaluation import frozen
from moco_tf.models import encoder as encoders
from moco_tf.models import saved_models
from moco_tf.serving import export, model_card, signatures
from moco_tf.training import checkpoints
from moco_tf.weights import conversion, exporting, safetensors_file

# Licences that the hub knows by these names.
LICENCES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "unlicense"),
    *("gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nd-4.0"),
    *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
)
_BILINEAR = 2  # Pillow's number of the filter
_TOLERANCE = 1e-4  # of features, of float32 in another order


def export_run(
    encoder: frozen.FrozenEncoder,
    output: str | pathlib.Path,
    name: str,
    version: int = 0,
    licence: str = "",
    workdir: str | pathlib.Path = "",
) -> pathlib.Path:
    """Exports an encoder, reads the export again, and prints a summary.

    Args:
      encoder: of a run. output, name, version, licence, workdir: as of
        serving.export.export_run; the folder is NAME-hf.

    Returns:
      pathlib.Path of the version's folder.

    Raises:
      ValueError: before anything is written, for a version that is there.
      FloatingPointError: if the export does not give the encoder's features;
        nothing is left of it.
      OSError: if it cannot be written.

    Side effects: writes the folder under a name that starts with a dot and
      renames it; seeds the generators of Keras.
    """
    final = export.version_folder(output, f"{name}-hf", version)
    layout, tensors = _tensors(encoder)
    card = model_card.describe(
        encoder,
        name,
        version=int(final.name),
        described={},
        licence=licence,
        workdir=workdir,
    )
    card |= {"keras_file": "", "format": "hf", "layout": layout}
    # Whoever shares the folder shares no path of this machine that the run's
    # command did not have.
    for field in resuming.SOURCES["pretrain"]:
        section, _, key = field.partition(".")
        given = model_card.as_given(encoder.config, workdir, field)
        card["config"][section][key] = given
    with filesystem.atomic_folder(final) as part:
        safetensors_file.write(part / "model.safetensors", tensors)
        state_files.write_json(part / "config.json", describe(encoder, card))
        processor = preprocessor(card["preprocessing"], encoder.recipe)
        if encoder.channels == 3:
            state_files.write_json(part / "preprocessor_config.json", processor)
        state_files.write_json(part / saved_models.CARD, card)
        text = naming.as_text(readme(card, len(tensors)))
        (part / "README.md").write_text(text, encoding="utf-8")
        difference = _check(part, encoder, layout)
    print(
        f"wrote {paths.shown(final)}\n"
        f"  model.safetensors  {len(tensors)} tensors, layout {layout}\n"
        f"  licence: {paths.shown(card['licence'])}\n"
        f"compared with the encoder: max difference {difference:.2g}\n"
        f"to share it, after `pip install --require-hashes -r {lane.EXTRAS}`\n"
        "in the checkout, and `hf auth login`:\n"
        f"  hf upload USER/{name} {paths.quote(final)}"
    )
    return final


def _is_torchvision(encoder):
    """Whether a backbone has torchvision's names and layout."""
    model = encoder.config.model
    return model.backbone in encoders.RESNETS and (model.input, model.norm) == (
        "rgb",
        "batch",
    )


def is_of_timm(encoder):
    """Whether timm builds this very network by the name of its backbone."""
    model = encoder.config.model
    same = (model.width, model.stem) == (1.0, "imagenet")
    return _is_torchvision(encoder) and same


def _tensors(encoder):
    """The layout of an encoder's backbone, and its tensors in that."""
    if not _is_torchvision(encoder):
        return "keras", _keras_tensors(signatures.float32_backbone(encoder))
    meta = {"step": 0}
    folder = pathlib.Path(encoder.title)
    if (folder / "meta.json").is_file():
        meta = checkpoints.read_meta(folder)
    config = encoder.config
    return "torchvision", exporting.backbone_tensors(
        encoder.encoder, config, meta
    )


def _keras_tensors(backbone):
    """The variables of a backbone by their names, dots for the slashes.

    Those of a network inside it, of which there may be two alike, are named
    behind it.
    """
    tensors = {}
    for layer in backbone.layers:
        inside = isinstance(layer, tf.keras.Model)
        for weight in layer.weights:
            name = weight.name.partition(":")[0].replace("/", ".")
            name = f"{layer.name}.{name}" if inside else name
            tensors[name] = weight.numpy()
    return tensors


def describe(encoder, card):
    """The content of config.json.

    Args:
      encoder: FrozenEncoder of a run. card: of model_card.describe.

    Returns:
      dict that JSON can hold; "architecture" is a name of timm only where timm
      builds the same network.
    """
    model = encoder.config.model
    settings = card["preprocessing"]
    size, features = settings["image_size"], card["encoder"]["features"]
    name = model.backbone
    is_timms = is_of_timm(encoder)
    return {
        "architecture": name if is_timms else f"moco_tf_{name}",
        "num_classes": 0,
        "num_features": features,
        "global_pool": "avg",
        "pretrained_cfg": {
            "tag": f"moco_tf_{card['encoder']['method']}",
            "custom_load": False,
            "input_size": [encoder.channels, size, size],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": size / short_side(encoder.recipe, size),
            "crop_mode": "center",
            "mean": settings["mean"][:3],
            "std": settings["std"][:3],
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "conv1",
            "classifier": "fc",
        },
        "moco_tf": {
            "version": card["moco_tf"],
            "layout": card["layout"],
            "backbone": name,
            "width": model.width,
            "stem": model.stem,
            "norm": model.norm,
            "input": model.input,
            **{
                key: card["encoder"][key]
                for key in ("identity", "method", "step", "epoch")
            },
        },
    }


def short_side(recipe, size):
    """Pixels of an image's short side before its centre is cut out.

    Args:
      recipe: views.Recipe. size: int, pixels of the view.
    """
    if recipe.evaluate is views.evaluate_imagenet:
        return round(size * 256 / 224)
    return size


def preprocessor(settings, recipe):
    """The content of preprocessor_config.json, of transformers' BiT form.

    Args:
      settings: "preprocessing" of a card. recipe: views.Recipe.
    """
    size = settings["image_size"]
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": short_side(recipe, size)},
        "resample": _BILINEAR,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": settings["mean"],
        "image_std": settings["std"],
    }


def metadata(card):
    """The lines of a card's YAML, which the hub reads, without the rules.

    A text is written as JSON has it, which YAML reads as the same text.
    """
    licence = card["licence"]
    lines = []
    if licence == model_card.UNSPECIFIED:
        lines.append("license: unknown")
    elif licence.lower() in LICENCES:
        lines.append(f"license: {licence.lower()}")
    else:
        lines += ["license: other", f"license_name: {json.dumps(licence)}"]
    tags = ["image-feature-extraction"]
    if model_card.method_of(card):
        tags.append("self-supervised-learning")
        tags.append(card["encoder"]["method"].replace("_", "-"))
    return [
        *lines,
        f"library_name: {'timm' if _loads_in_timm(card) else 'moco-tf'}",
        "pipeline_tag: image-feature-extraction",
        "tags:",
        *(f"- {tag}" for tag in tags),
    ]


def _loads_in_timm(card):
    """As `is_of_timm`, of a card."""
    encoder = card["encoder"]
    same = (encoder["width"], encoder["stem"]) == (1.0, "imagenet")
    return same and card["layout"] == "torchvision"


def readme(card, count):
    """The text of README.md.

    Args:
      card: of model_card.describe, with "layout". count: of the tensors.
    """
    block = "\n".join(["---", *metadata(card), "---", ""])
    text = model_card.page(card, _taken(card, count), _use(card))
    return f"{block}\n{text}"


def _taken(card, count):
    settings, features = card["preprocessing"], card["encoder"]["features"]
    mean, std = (
        ", ".join(f"{value:g}" for value in settings[key])
        for key in ("mean", "std")
    )
    layout = (
        "names and shapes are those of torchvision's ResNet, without `fc`"
        if card["layout"] == "torchvision"
        else "names are those of the Keras variables, shapes those of Keras"
    )
    return (
        f"`model.safetensors` holds {count} tensors of the backbone; {layout}. "
        f"Images are resized and cut to the centre, {settings['image_size']} "
        "pixels, as `preprocessor_config.json` says, then normalised with mean "
        f"({mean}) and std ({std}) of pixels in 0..1. The output is "
        f"{features} features, the mean over the last map."
    )


def _use(card):
    name, settings = card["name"], card["preprocessing"]
    parts = []
    if _loads_in_timm(card):
        parts.append(f"""\
In PyTorch, with timm:

```python
import timm

encoder = timm.create_model("local-dir:{name}", pretrained=True, num_classes=0)
```""")
    parts.append(f"""\
Its tensors alone, in any framework:

```python
from safetensors import numpy

tensors = numpy.load_file("{name}/model.safetensors")
```""")
    if card["layout"] == "torchvision":
        parts.append(f"""\
In moco_tf, which can then evaluate or fine-tune it:

```sh
moco-tf import-weights --path={name}/model.safetensors --workdir=runs/{name} \\
    --config.data.image_size={settings["image_size"]} \\
    --config.data.views={settings["views"]}
```""")
    return "\n\n".join(parts)


def _check(folder, encoder, layout):
    """Compares what is read again with the encoder.

    Returns:
      the largest difference of features on an image of noise; of tensors where
      the layout is Keras' own.

    Raises:
      FloatingPointError: beyond rounding.
    """
    with paths.plain(folder) as plain:
        tensors = safetensors.numpy.load_file(f"{plain}/model.safetensors")
    backbone = signatures.float32_backbone(encoder)
    if layout == "keras":
        ours = _keras_tensors(backbone)
        same = ours.keys() == tensors.keys()
        same &= len(ours) == len(backbone.weights)  # none twice
        pairs = [(ours[name], tensors[name]) for name in ours if same]
        difference = 0.0 if same else np.inf
        difference = max(
            [difference, *(np.abs(a - b).max(initial=0) for a, b in pairs)]
        )
    else:
        difference = _difference(encoder, backbone, tensors)
    if not difference <= _TOLERANCE:
        raise FloatingPointError(
            "The export must give the features of the encoder. Received a "
            f"difference of {difference:.3g}. Nothing is left of it. Report "
            "this with the configuration of the run."
        )
    return difference


def _difference(encoder, backbone, tensors):
    """The largest difference of features, of a new network of the tensors."""
    config = encoder.config.copy_and_resolve_references().unlock()
    config.train.precision = "float32"
    again = frozen.build_encoder(config.lock())
    weights = {n: v for n, v in tensors.items() if v.dtype == np.float32}
    conversion.assign(again, weights)
    size = encoder.image_size
    images = np.random.default_rng(0).normal(size=(2, size, size, 3))
    images = images.astype(np.float32)
    left = again.backbone(images, training=False).numpy()
    right = backbone(images, training=False).numpy()
    return float(np.abs(left - right).max())
