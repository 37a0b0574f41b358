"""Features of a source as a file for other programs (the `embed` command)."""

import pathlib
import shutil
from collections.abc import Sequence

import moco_tf
from moco_tf.data import sources, views
from moco_tf.evaluation import embedding_files, feature_store, frozen

# What a file holds is a function of these entries of its metadata.
_IDENTITY = ("encoder", "fingerprint", "layers")


def embed_source(
    judged: frozen.Frozen,
    spec: str,
    path: str | pathlib.Path,
    layers: Sequence[str] = (),
    folder: str | pathlib.Path | None = None,
) -> embedding_files.Embeddings:
    """Writes the features of a source to a file, and prints what it wrote.

    Args:
      judged: frozen.Frozen. spec: of the source, as `sources.open_source`
        takes it; with or without labels.
      path: .npz or .parquet. One that exists must be of the same encoder,
        source and layers: then it is whole, and is left as it is.
      layers: names of those that are written; (): all that the encoder has.
      folder: of stored features, which stay for other commands; None: beside
        the path, until the file is whole.

    Returns:
      embedding_files.Embeddings, as in the file.

    Raises:
      ValueError: before any work, for what cannot be embedded, and a file that
        is of another command.

    Side effects: writes the file. A killed command, started again, goes on.
    """
    layers = tuple(layers) or judged.layers
    unknown = sorted(set(layers) - set(judged.layers))
    if unknown:
        raise ValueError(
            f"The encoder has the features {', '.join(judged.layers)}. "
            f"Received {', '.join(unknown)}."
        )
    layers = tuple(layer for layer in judged.layers if layer in layers)
    path = embedding_files.check_path(path)
    source = sources.open_source(spec, judged.channels)
    if embed(judged, source, spec, path, layers, folder):
        print(f"wrote       {path}")
    else:
        print(f"This file is finished: {path}")
    found = embedding_files.load(path)
    sizes = ", ".join(f"{x} {found.rows[x].shape[1]}" for x in layers)
    labelled = "no labels"
    if found.labels is not None:
        labelled = f"labels of {len(set(found.labels.tolist()))} classes"
    print(
        f"source      {spec}: {len(found.index)} images, {labelled}, "
        f"{found.about['unreadable']} unreadable left out\n"
        f"encoder     {found.about['title']}\n"
        f"features    {sizes}"
    )
    return found


def embed(judged, source, spec, path, layers, folder=None):
    """As `embed_source`, of a source that is open; prints nothing.

    Args:
      source: Source. path: pathlib.Path, of embedding_files.check_path.
      judged, spec, layers, folder: as `embed_source`.

    Returns:
      bool: whether the file was written; False: it was there.
    """
    about = describe(judged, source, spec, layers)
    if path.exists():
        _check_same(path, about)
        return False
    own = path.with_name(f"{path.name}.features")
    stored = feature_store.extract(judged, source, folder or own)
    embedding_files.write(
        path,
        embedding_files.Embeddings(
            {layer: stored.rows[layer] for layer in layers},
            stored.index,
            [source.name(int(place)) for place in stored.index],
            stored.labels,
            source.class_names,
            {**about, "unreadable": len(stored.skipped)},
        ),
    )
    if not folder:
        shutil.rmtree(own)
    return True


def describe(judged, source, spec, layers):
    """What a file tells of itself.

    Args:
      judged: frozen.Frozen. source: Source. spec: of it. layers: names.

    Returns:
      dict that JSON can hold: encoder, title, image_size, views, mean, std,
      source, fingerprint, layers, moco_tf (the version).
    """
    recipe = judged.recipe
    named = [name for name, own in views.RECIPES.items() if own == recipe]
    return {
        "encoder": judged.identity,
        "title": judged.title,
        "image_size": judged.image_size,
        "views": named[0] if named else "",
        "mean": list(recipe.mean),
        "std": list(recipe.std),
        "source": sources.absolute(spec),
        "fingerprint": source.fingerprint(),
        "layers": list(layers),
        "moco_tf": moco_tf.__version__,
    }


def _check_same(path, about):
    """Refuses a file that another command has written."""
    found = embedding_files.load(path).about
    if all(found.get(name) == about[name] for name in _IDENTITY):
        return
    shown = [
        f"{x.get('title')}, {x.get('source')}, {'+'.join(x.get('layers', []))}"
        for x in (found, about)
    ]
    raise ValueError(
        "A file of embeddings is only kept for the same encoder, source and "
        f"layers. {str(pathlib.Path(path))!r} holds {shown[0]} (encoder "
        f"{str(found.get('encoder'))[:16]}). Received {shown[1]} (encoder "
        f"{about['encoder'][:16]}). Give another --path, or move the file away."
    )
