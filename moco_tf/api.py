"""Runs from Python: `train`, and what is done with its result.

The functions take the way of the commands of the same names: what a command
prints they print, what it refuses they raise, with the same words and a note of
the keywords that stand for flags. A workdir that a command made can be opened
here, and the other way round.

    run = moco_tf.train("photos", "runs/mine", epochs=100)
    vectors = run.embed("photos").features
"""

import contextlib
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from moco_tf import keywords, paths
from moco_tf.cli import quiet
from moco_tf.monitoring import metrics_csv, printed

_INTERRUPTED = "Interrupted. What was finished is saved: the same call goes on."


class Embedded(NamedTuple):
    """Features of images, in their order.

    Attributes:
      features: float32 [n, F].
      names: list of str: of files, or numbers of arrays.
      labels: int64 [n], -1 for an image without a class; None without any.
      class_names: list of str, or None.
    """

    features: np.ndarray
    names: list
    labels: np.ndarray | None = None
    class_names: list | None = None


class Run:
    """A run of pre-training in its workdir, finished or not.

    In a notebook it shows its figures and curves.

    Attributes:
      workdir: pathlib.Path. checkpoint: str, that the encoder is taken from.
    """

    @keywords.explained
    def __init__(
        self, workdir: str | pathlib.Path, checkpoint: str = "latest"
    ) -> None:
        """Opens a run.

        Args:
          workdir: of `train` or of the command pretrain.
          checkpoint: "latest", "best", a step or a path.

        Raises:
          ValueError: if the folder holds no run.
        """
        _start()
        from moco_tf.evaluation import frozen

        self.workdir = paths.expand(workdir)
        self.checkpoint = str(checkpoint)
        self._config = frozen.load_config(self.workdir)

    @functools.cached_property
    @keywords.explained
    def frozen(self) -> Any:
        """The FrozenEncoder of the checkpoint, which the commands take."""
        from moco_tf.evaluation import frozen

        return frozen.open_frozen(self.workdir, self.checkpoint)

    @functools.cached_property
    def encoder(self) -> Any:
        """The backbone, a keras.Model: pixels 0..255 [n, S, S, C] -> [n, F].

        Its weights are a copy, in float32, and can be trained; it holds layers
        of Keras alone where the backbone does.
        """
        from moco_tf.serving import export, signatures

        backbone = signatures.float32_backbone(self.frozen)
        with contextlib.suppress(ValueError):  # of other layers: as it is
            backbone = export.stock_model(backbone)
        return _with_pixels(backbone, self.frozen.recipe)

    @property
    def metrics(self) -> dict[str, list]:
        """The figures so far, column -> values, as pandas.DataFrame takes them.

        A row is one of metrics.csv; None where it has no figure. Columns
        without any are left out.
        """
        path = self.workdir / "metrics.csv"
        rows = metrics_csv.read(path) if path.exists() else []
        names = rows[0] if rows else {}
        columns = {name: [row[name] for row in rows] for name in names}
        return {
            name: values
            for name, values in columns.items()
            if any(value is not None for value in values)
        }

    def embed(self, images: Any, features: str = "backbone") -> Embedded:
        """Features of images: see `embed`."""
        return embed(self, images, features)

    @keywords.explained
    def report(
        self, path: str | pathlib.Path = "", images: int = 2000
    ) -> pathlib.Path:
        """Writes the report (the command report) and returns its path.

        Args:
          path: of the file; "": report.html in the workdir.
          images: of the test set, on its map; 0: curves alone.
        """
        from moco_tf.reporting import page

        return page.write(
            [self.workdir], os.fspath(path), self.checkpoint, images
        )

    @keywords.explained
    def export(
        self,
        output: str | pathlib.Path = "",
        name: str = "encoder",
        format: str = "saved_model",
        **options: Any,
    ) -> pathlib.Path:
        """Writes the encoder for others (the command export).

        Args:
          output: folder of exports; "": export/ in the workdir.
          name: of the model.
          format: "saved_model", with a .keras file; "hf": for Hugging Face.
          options: of export_run of serving.export, or of serving.hub_folder.

        Returns:
          pathlib.Path of the version's folder.
        """
        from moco_tf import counting
        from moco_tf.serving import export, hub_folder

        forms: dict[str, Callable[..., pathlib.Path]] = {
            "saved_model": export.export_run,
            "hf": hub_folder.export_run,
        }
        if format not in forms:
            raise ValueError(
                f"format must be one of {', '.join(forms)}. Received "
                f"{format!r}. Pass format='hf', or leave it out."
            )
        with counting.Elapsed("exporting"):
            return forms[format](
                self.frozen,
                output or self.workdir / "export",
                name,
                workdir=self.workdir,
                **options,
            )

    def _repr_html_(self):
        """The figures and curves so far, as notebooks show them."""
        from moco_tf.reporting import page

        return page.excerpt(self.workdir)

    def __repr__(self):
        return f"moco_tf.Run({str(self.workdir)!r})"


@keywords.explained
def train(
    images: str | pathlib.Path = "",
    workdir: str | pathlib.Path = "",
    preset: str | pathlib.Path = "",
    *,
    devices: str = "auto",
    deterministic: bool = False,
    extend: bool = False,
    **fields: Any,
) -> Run:
    """Trains an encoder on images without labels, or goes on training it.

    Args:
      images: a folder, or any source ("list:FILE", "tfds:NAME/SPLIT",
        "shapes:train"); "": the one of the preset, or of the run that is there.
      workdir: folder of the run. A run that is there goes on.
      preset: name or file of a configuration; "" or "auto": the run's own, or
        one that is chosen for images and devices by the rules of docs/auto.md,
        printed, and kept as preset.py in the workdir.
      devices, deterministic, extend: as the flags of the command pretrain.
      fields: of the configuration, by name (epochs=20), as section.name in a
        dict (optimizer={"momentum": 0.9}) where the name alone could be
        several, or as text ("train.epochs").

    Returns:
      Run.

    Raises:
      ValueError: before the first step, for anything that cannot work.
      FloatingPointError: at a loss that is not finite.
      OSError: if a checkpoint cannot be written, or the disk is full.
      KeyboardInterrupt: when interrupted; all is saved, and the same call goes
        on.
    """
    if not os.fspath(workdir):
        raise ValueError(
            "A run needs a workdir, for all that it writes. Received "
            f"workdir={workdir!r}. Pass one, as in "
            'train("photos", "runs/mine").'
        )
    _start()
    with quiet.imports():
        from moco_tf import pretrain
        from moco_tf.doctor import resources

    workdir = paths.expand(workdir)
    with printed.copied(_INTERRUPTED):
        strategy = _strategy(devices, deterministic)
        config, text = keywords.of_run(
            images, workdir, preset, fields, strategy
        )
        pretrain.pretrain(
            config,
            workdir,
            strategy,
            extend=extend,
            preset=text,
            require=resources.require,
        )
    return Run(workdir)


@keywords.explained
def embed(
    run: Run | str | pathlib.Path,
    images: Any,
    features: str = "backbone",
    path: str | pathlib.Path = "",
) -> Embedded:
    """Features of images, by a run's encoder (the command embed).

    Args:
      run: Run, or its workdir.
      images: a folder or any source as text; or uint8 [n, H, W, C], or a
        sequence of uint8 [H, W, C] or PIL images, of any sizes.
      features: "backbone", or "projection": the head's.
      path: .npz or .parquet to write as well, of a source; "": none.

    Returns:
      Embedded. Images of a source that cannot be read are left out, and a
      warning names them.

    Raises:
      ValueError: for what cannot be embedded.

    Side effects: the features of a source are stored in the workdir.
    """
    opened = _open(run)
    encoder = opened.frozen
    from moco_tf.data import sources
    from moco_tf.evaluation import embeddings, in_memory
    from moco_tf.evaluation import features as stored_features

    embeddings.choose_layers(encoder, [features])
    store = opened.workdir / "features"
    if not isinstance(images, str | os.PathLike):
        names = [str(number) for number in range(len(images))]
        return Embedded(in_memory.encode(encoder, images, features), names)

    spec = keywords.spec(images)
    if path:
        written = embeddings.embed_source(
            encoder, spec, path, layers=(features,), folder=store
        )
        return Embedded(
            np.asarray(written.rows[features][:]),
            list(written.names),
            written.labels,
            written.class_names,
        )
    source = sources.open_source(spec, encoder.channels)
    stored = stored_features.extract_to_disk(encoder, source, store)
    return Embedded(
        np.array(stored.rows[features]),
        sources.names_of(source, stored.index),
        stored.labels,
        source.class_names,
    )


@keywords.explained
def knn(
    run: Run | str | pathlib.Path,
    bank: str | pathlib.Path = "",
    query: str | pathlib.Path = "",
    k: int | Sequence[int] = 200,
    temperature: float | Sequence[float] = 0.1,
    features: str = "both",
    baselines: bool = False,
) -> list[dict[str, Any]]:
    """Accuracy of a vote of nearest neighbours (the command knn).

    Args:
      run: Run, or its workdir.
      bank, query: labelled folders or sources; "": those of the run.
      k, temperature: of the vote, one or several; every pair is measured.
      features: "backbone", "projection" or "both".
      baselines: also raw pixels and the untrained encoder.

    Returns:
      list of dicts: features, k, temperature, and top1, 0..1.

    Raises:
      ValueError: for what cannot be measured.
    """
    opened = _open(run)
    from moco_tf.evaluation import knn as knn_lib

    result = knn_lib.evaluate(
        opened.frozen,
        opened.workdir / "features",
        bank=keywords.spec(bank),
        query=keywords.spec(query),
        ks=np.atleast_1d(k).tolist(),
        temperatures=np.atleast_1d(temperature).tolist(),
        features=features,
        baselines=baselines,
    )
    return [
        {"features": name, "k": k, "temperature": t, "top1": float(value)}
        for (name, k, t), value in result.items()
    ]


@keywords.explained
def linear(
    run: Run | str | pathlib.Path,
    train: str | pathlib.Path = "",
    test: str | pathlib.Path = "",
    output: str | pathlib.Path = "",
    preset: str | pathlib.Path = "linear",
    *,
    devices: str = "auto",
    deterministic: bool = False,
    **fields: Any,
) -> dict[str, Any]:
    """Accuracy of a linear classifier on frozen features (the command linear).

    Args:
      run: Run, or its workdir.
      train, test: labelled folders or sources; "": those of the run's kNN.
      output: folder of the results; "": linear/ in the workdir.
      preset: name or .py file of a configuration of linear.
      devices, deterministic: as the flags of the command.
      fields: of the configuration, as of `train`.

    Returns:
      dict, as in result.json: top1, its interval, and how it was measured.

    Raises:
      ValueError: for what cannot be measured.
      KeyboardInterrupt: when interrupted; the same call goes on.
    """
    _start()
    with quiet.imports():
        from moco_tf.evaluation import linear as linear_lib
    named = {"data.train": train, "data.test": test}
    fields |= {name: value for name, value in named.items() if value}
    config = keywords.of_command("linear", preset, fields)
    with printed.copied(_INTERRUPTED):
        strategy = _strategy(devices, deterministic)
        with strategy.scope():
            opened = _open(run)
            encoder = opened.frozen
        return linear_lib.run(
            config,
            encoder,
            output or opened.workdir / "linear",
            strategy,
            folder=opened.workdir / "features",
        )


@keywords.explained
def compare(
    *runs: Run | str | pathlib.Path,
    path: str | pathlib.Path = "",
    images: str | pathlib.Path = "",
    query: str | pathlib.Path = "",
    output: str | pathlib.Path = "",
    **options: Any,
) -> list[dict[str, Any]]:
    """Runs side by side: what they have reached, or what their encoders do.

    Without `images` the runs' own figures are read, as the command report does
    of several: any methods, lengths and commands. With `images` the encoders
    are measured on them, as the command compare does.

    Args:
      runs: Runs, or folders of pretrain, linear or finetune. With `images`
        encoders: Runs, or text as the command takes it: "runs/a@best", a file
        of weights, a SavedModel, "untrained", "pixels".
      path: .html to write as well, the report that compares them; "": none.
      images, query: a folder or source, labelled or not; query "": each of the
        images by the others.
      output: folder of the results and features; only with `images`.
      options: k, temperature, probe and rounds of comparing.compare.

    Returns:
      list of dicts, one a run, as pandas.DataFrame takes them: run, its name;
      method; how far it is; the last loss and accuracies, 0..1; hours; and the
      fields of the configurations that differ, None for a run without. With
      `images` one an encoder, as in compare.csv: accuracies, their differences
      to the first with intervals of 95 %, and what needs no labels.

    Raises:
      ValueError: for a folder without a run, one that is named twice, or what
        cannot be measured.
    """
    _start()
    if os.fspath(images):
        if os.fspath(path):
            raise ValueError(
                "The page of a comparison on images stands in its folder. "
                f"Received path={os.fspath(path)!r}. Pass output=DIR alone."
            )
        with quiet.imports():
            from moco_tf import comparing
        names = [_encoder_name(run) for run in runs]
        result = comparing.compare(
            names,
            keywords.spec(images),
            keywords.spec(query),
            os.fspath(output),
            **options,
        )
        return comparing.rows(result)
    if os.fspath(query) or os.fspath(output) or options:
        named = {"query": query, "output": output}
        given = [name for name, value in named.items() if os.fspath(value)]
        raise ValueError(
            "Encoders are measured on images. Received "
            f"{', '.join([*given, *options])} without images. Pass "
            'images="photos" too, or the runs alone for their own figures.'
        )
    from moco_tf.reporting import findings, page

    folders = [x.workdir if isinstance(x, Run) else x for x in runs]
    read = page.read_runs(folders)
    rows: list[dict[str, Any]] = [findings.summary(run) for run in read]
    for field, values in findings.differences(read):
        for row, value in zip(rows, values, strict=True):
            row.setdefault(field, None if value is findings.NO_FIELD else value)
    if path:
        page.write(folders, os.fspath(path))
    return rows


def _encoder_name(run):
    """A Run, or anything else, as the command compare names it."""
    if not isinstance(run, Run):
        return os.fspath(run)
    ending = "" if run.checkpoint == "latest" else f"@{run.checkpoint}"
    return f"{run.workdir}{ending}"


def _start():
    """Hides notices; TensorFlow is imported once, with what it prints."""
    quiet.prepare()
    with quiet.imports():
        import tensorflow  # noqa: F401


def _open(run):
    """A Run, of itself or of its workdir."""
    return run if isinstance(run, Run) else Run(run)


def _strategy(devices, deterministic):
    """The strategy of this process on its own."""
    from moco_tf.training import distribution

    strategy = distribution.make_strategy(devices, deterministic=deterministic)
    _start_xla()
    return strategy


@functools.cache
def _start_xla():
    quiet.start_xla()


def _with_pixels(backbone, recipe):
    """A model of pixels 0..255 from one of normalised images."""
    import tensorflow as tf

    channels = backbone.input_shape[-1]
    pixels = tf.keras.Input(backbone.input_shape[1:], name="pixels")
    scaled = tf.keras.layers.Rescaling(1 / 255)(pixels)
    normalised = tf.keras.layers.Normalization(
        mean=np.resize(recipe.mean, channels),
        variance=np.square(np.resize(recipe.std, channels)),
    )(scaled)
    return tf.keras.Model(pixels, backbone(normalised), name="encoder")
