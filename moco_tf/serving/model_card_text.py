"""The model card of an export in words."""

from moco_tf import method_table
from moco_tf.evaluation import accuracy
from moco_tf.serving import signature_list

UNSPECIFIED = "unspecified"  # licence


def readme(card):
    """The README.md of a card, as model_card.describe makes it."""
    encoder = card["encoder"]
    method = method_table.METHODS[encoder["method"]]
    papers = " and ".join(f"arXiv:{paper}" for paper in method.papers)
    image = "an image"
    if encoder["input"] == "pair":
        image = "an image of two aligned files"
    parts = [
        f"# {card['name']}, version {card['version']}",
        f"An image encoder, trained without labels by {method.title} "
        f"({papers}) with moco_tf {card['moco_tf']}. It turns {image} into "
        f"{encoder['features']} numbers; similar images get similar numbers.",
        _facts(card),
        "## Licence\n\n" + _licence(card),
        "## Figures\n\n" + _figures(card["metrics"]),
        "## Input and output\n\n```\n"
        + signature_list.text(card["signatures"]).rstrip()
        + "\n```\n\n"
        + _preprocessing(card["preprocessing"]),
        "## Use\n\n" + _use(card),
        "## Limits\n\n" + _limits(card),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(card):
    encoder, data = card["encoder"], card["data"]
    images = data["images_per_epoch"]
    when = "not noted"
    if encoder["step"] is not None:
        when = f"{encoder['step']} steps"
        if encoder["epoch"] is not None:
            when += f", {encoder['epoch']:g} epochs"
    rows = {
        "backbone": f"{encoder['backbone']}, width {encoder['width']:g}, "
        f"{encoder['stem']} stem",
        "trained": f"{when}, in {encoder['trained_in']}",
        "exported in": encoder["exported_in"],
        "data": data["source"],
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
            f"{knn['temperature']:g}), {knn['query']} among {knn['bank']}: "
            f"{100 * knn['backbone']:.2f} % top-1 after {knn['step']} steps"
        )
    if "linear" in metrics:
        linear = metrics["linear"]
        lines.append(
            f"* linear classifier on frozen features ({linear['way']}): "
            + accuracy.describe(linear)
        )
    return "\n".join(lines) or "None were measured."


def _preprocessing(found):
    mean, std = (
        ", ".join(f"{value:g}" for value in found[name])
        for name in ("mean", "std")
    )
    return (
        "Bytes and pixels are resized and cut to the centre as in moco_tf's "
        f"evaluation ({found['views']} views, {found['image_size']} pixels), "
        f"then normalised with mean ({mean}) and std ({std}) of pixels in "
        "0..1. `embed_tensors` expects that done, and one row or more."
    )


def _use(card):
    name, of_pairs = card["name"], card["encoder"]["input"] == "pair"
    second = ", second_bytes=others" if of_pairs else ""
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
{curl(name, of_pairs)}
```
"""
    if card["keras_file"]:
        lines += f"""
In Keras 2, without this package's code:

```python
encoder = tf.keras.models.load_model("{name}/{card["version"]}/encoder.keras")
```
"""
    return lines.rstrip()


def _limits(card):
    lines = []
    if card["encoder"]["trained_in"] != "float32":
        lines.append(
            f"* It was trained in {card['encoder']['trained_in']} and is "
            "exported in float32: features differ in the last digits from "
            "those that the figures were measured with."
        )
    if not card["keras_file"]:
        lines.append(f"* There is no .keras file. {card['keras_note']}")
    if card["bank"]:
        lines.append(
            f"* `neighbours` carries the features and labels of {card['bank']}."
        )
    lines.append(
        "* What it sees in images, and what it misses, comes from the data "
        "above. It was measured on nothing else."
    )
    return "\n".join(lines)


def curl(name, of_pairs=False):
    """A shell line that sends photo.jpg, however long, to a server.

    Args:
      name: of the model. of_pairs: bool, whether depth.png goes with it.
    """
    row = """{"b64": "'; base64 -w0 photo.jpg; printf '"}"""
    if of_pairs:
        other = row.replace("photo.jpg", "depth.png")
        row = f"""{{"image_bytes": {row}, "second_bytes": {other}}}"""
    return (
        f"""(printf '{{"instances": [{row}]}}') \\\n"""
        "  | curl --data-binary @- "
        f"http://localhost:8501/v1/models/{name}:predict"
    )
