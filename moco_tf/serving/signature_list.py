"""What a SavedModel's signatures take and return, as data and as text."""

from moco_tf.data import decode

# Of inputs by signature and name, then of outputs by name.
_MEANINGS = {
    "image_bytes": f"whole files, {decode.NAMED}, any size",
    "second_bytes": "the other sensor's files, of the same sizes",
    ("embed_images", "images"): "RGB pixels, any height and width",
    ("embed_tensors", "images"): "(RGB / 255 - mean) / std, already resized",
    "features": "as the encoder gives them",
    "normalised": "of length 1",
    "valid": "whether the row could be read; if not, the row is zeros",
    "classes": "names, the best first; empty where a row could not be read",
    "probabilities": "of these classes",
    "scores": "votes of the nearest neighbours, sum of exp(cosine / T)",
}


def describe(signatures):
    """Lists signatures.

    Args:
      signatures: dict of concrete functions, of a module that is to be saved
        or of a loaded SavedModel.

    Returns:
      dict name -> {"inputs": …, "outputs": …}, of dicts name -> {"dtype",
      "shape" (list, None for any size), "meaning"}, that JSON can hold.
    """
    found = {}
    for name, function in signatures.items():
        arguments, named = function.structured_input_signature
        named = {spec.name: spec for spec in arguments} | named
        found[name] = {
            "inputs": _tensors(name, named),
            "outputs": _tensors(name, function.structured_outputs),
        }
    return found


def _tensors(signature, specs):
    return {
        name: {
            "dtype": spec.dtype.name,
            "shape": spec.shape.as_list(),
            "meaning": _MEANINGS.get(
                (signature, name), _MEANINGS.get(name, "")
            ),
        }
        for name, spec in specs.items()
    }


def text(described):
    """Some lines for each signature of `describe`; "n" is any number."""
    lines = []
    for name, parts in described.items():
        lines.append(name)
        for arrow, tensors in (
            ("", parts["inputs"]),
            ("-> ", parts["outputs"]),
        ):
            for tensor, form in tensors.items():
                lines.append(
                    f"  {arrow + tensor:<17} {_form(form):<22} "
                    f"{form['meaning']}".rstrip()
                )
        lines.append("")
    return "\n".join(lines)


def _form(form):
    letters = ("n", "H", "W", "C")
    sizes = [
        letters[place] if size is None else str(size)
        for place, size in enumerate(form["shape"])
    ]
    return f"{form['dtype']} [{', '.join(sizes)}]"
