"""Exact nearest neighbours among files of embeddings."""

import csv
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.figure
import matplotlib.patches
import numpy as np
from PIL import Image, ImageOps

from moco_tf import filesystem
from moco_tf.data import sources, unreadable
from moco_tf.evaluation import embeddings, voting

NEIGHBOURS = 10  # columns beside the query
_SIDE = 96  # of an image, pixels
_CELL = (_SIDE + 34, _SIDE + 14)  # with two lines of words, and a gap
_APART = 16  # between the queries and their neighbours
_LETTERS = 17  # of a caption that fits above an image
_SAME, _OTHER = "#1a9641", "#d7191c"  # frames, by class
_GREY = 160  # an image that cannot be read


def draw(path, found, query, bank, query_source, bank_source):
    """Draws one row a query: its image, then its neighbours, nearest first.

    A green frame: of the query's class; red: of another; none: not known. An
    image that cannot be read is a grey tile.

    Args:
      path: of the PNG. found: Neighbours, of the queries to draw.
      query, bank: embeddings.Embeddings.
      query_source, bank_source: Sources of their images.

    Side effects: writes the file, whole or not at all.
    """
    count = min(NEIGHBOURS, found.index.shape[1])
    height = len(found.query) * _CELL[0]
    width = (1 + count) * _CELL[1] + _APART
    canvas = np.full([height, width, 3], 255, np.uint8)
    # The object interface: pyplot would keep the figure in a global list.
    figure = matplotlib.figure.Figure(figsize=(width / 100, height / 100))
    axes = figure.add_axes([0, 0, 1, 1])
    axes.axis("off")

    def put(place, column, held, source, row, cosine=None, same=None):
        top = (place + 1) * _CELL[0] - _SIDE - 4
        left = column * _CELL[1] + 7 + (_APART if column else 0)
        image = _image(source, int(held.index[row]))
        canvas[top : top + _SIDE, left : left + _SIDE] = image
        words = held.class_of(row) or pathlib.PurePath(held.names[row]).name
        _caption(axes, words, cosine, top, left)
        if same is not None:
            _frame(axes, same, top, left)

    for place, own in enumerate(found.query):
        put(place, 0, query, query_source, own)
        for rank in range(count):
            near, cosine = found.index[place, rank], found.cosine[place, rank]
            same = None if found.same is None else found.same[place, rank]
            put(place, 1 + rank, bank, bank_source, near, cosine, same)
    # One canvas for all images: a hundred axes would take a minute.
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    with filesystem.atomic_file(path) as part:
        figure.savefig(part, format="png", dpi=100)


def _image(source, index):
    """An image as uint8 [side, side, 3], whole, on white."""
    image, _ = unreadable.read(source, index)
    if image is None:  # the file has gone or is damaged
        return np.full([_SIDE, _SIDE, 3], _GREY, np.uint8)
    whole = ImageOps.pad(
        Image.fromarray(image.numpy()[..., :3]),  # of two files the first
        (_SIDE, _SIDE),
        Image.Resampling.BICUBIC,
        color="white",
    )
    return np.asarray(whole)


def _caption(axes, words, cosine, top, left):
    """Writes two lines above an image."""
    if len(words) > _LETTERS:
        words = words[: _LETTERS - 1] + "…"
    lines = ["query", words] if cosine is None else [words, f"{cosine:.3f}"]
    axes.text(
        left + _SIDE / 2,
        top - 5,
        "\n".join(lines),
        ha="center",
        va="bottom",
        fontsize=7,
        linespacing=1.0,
        parse_math=False,  # a class may be named "$1"
    )


def _frame(axes, same, top, left):
    """Draws a green or red frame around an image."""
    axes.add_patch(
        matplotlib.patches.Rectangle(
            (left - 2, top - 2),
            _SIDE + 3,
            _SIDE + 3,
            fill=False,
            linewidth=2.5,
            edgecolor=_SAME if same else _OTHER,
        )
    )


class Neighbours(NamedTuple):
    """The k nearest images of the bank to each query, by cosine."""

    query: np.ndarray  # int64 [q], rows of the query file
    index: np.ndarray  # int64 [q, k], rows of the bank file, nearest first
    cosine: np.ndarray  # float32 [q, k]
    same: np.ndarray | None  # bool [q, k], of one class; None: not known


def search_files(
    bank_path: str | pathlib.Path,
    query_path: str | pathlib.Path,
    k: int,
    csv_path: str | pathlib.Path,
    grid_path: str | pathlib.Path = "",
    queries: Sequence[str] = (),
    layer: str = "backbone",
    shown: int = 10,
) -> Neighbours:
    """Finds the neighbours of one file's images in another, and prints a line.

    Args:
      bank_path, query_path: of `embed`; the same one is its own bank, in which
        no image is its own neighbour.
      k: neighbours, 1 to the size of the bank.
      csv_path: of the results, one row a neighbour.
      grid_path: of a picture of `shown` queries and their nearest neighbours;
        "": none is drawn, and the images are not opened.
      queries: names of the query images that are searched; (): all.
      layer: whose features are compared. shown: int, at least 1.

    Returns:
      Neighbours.

    Raises:
      ValueError: before any work, for what cannot be searched.

    Side effects: writes the CSV and the PNG, each whole or not at all.
    """
    bank = embeddings.load(bank_path)
    query = embeddings.load(query_path)
    places = _places(query, queries)
    _check(bank, query, k, layer, places)
    if grid_path:
        if shown < 1:
            raise ValueError(
                "A grid shows at least one query. Received "
                f"shown={shown}. Pass a larger number, or no grid."
            )
        opened = [_open(query), _open(bank)]
    found = search(bank, query, k, layer, places)
    write_csv(csv_path, found, bank, query)
    if grid_path:
        spread = sources.evenly_spaced(len(places), shown)
        part = Neighbours(*(x if x is None else x[spread] for x in found))
        draw(grid_path, part, query, bank, *opened)
    print(_summary(found, bank, query))
    return found


def search(bank, query, k, layer="backbone", places=None):
    """Searches embeddings, blocked: features stay on the disk.

    Args:
      bank, query: embeddings.Embeddings. k: neighbours.
      layer: whose features are compared.
      places: int64 [q], rows of the query that are searched; None: all.

    Returns:
      Neighbours. An image of the query's source that is in the bank too is not
      its own neighbour.

    Raises:
      ValueError: for other layers, encoders, widths, and a k that the bank
        cannot serve.
    """
    if places is None:
        places = np.arange(len(query.index))
    _check(bank, query, k, layer, places)
    rows = query.rows[layer]
    if not np.array_equal(places, np.arange(len(query.index))):
        rows = np.concatenate([rows[i : i + 1] for i in places.tolist()])
    own = _own_rows(bank, query, places)
    more = int((own >= 0).any())  # a place that the image itself may take
    cosine, index = voting.nearest(bank.rows[layer], rows, k + more)
    if more:
        drop = index == own[:, np.newaxis]
        # Not found among so many duplicates of it: the last one goes.
        drop[~drop.any(axis=1), -1] = True
        cosine = cosine[~drop].reshape(-1, k)
        index = index[~drop].reshape(-1, k)
    same = _same_class(bank, query, places, index)
    return Neighbours(places, index, cosine, same)


def write_csv(path, found, bank, query):
    """Writes query, rank, neighbour, cosine and, if both have them, classes.

    Args:
      path: of the CSV. found: Neighbours. bank, query: Embeddings.

    Side effects: writes the file, whole or not at all.
    """
    with filesystem.atomic_file(path) as part:
        with open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            header = ["query", "rank", "neighbour", "cosine"]
            if found.same is not None:
                header += ["query_class", "neighbour_class"]
            writer.writerow(header)
            for own, near, cosines in zip(*found[:3], strict=True):
                for rank, (row, cosine) in enumerate(
                    zip(near, cosines, strict=True), start=1
                ):
                    line = [query.names[own], rank, bank.names[row]]
                    line.append(f"{cosine:.6f}")
                    if found.same is not None:
                        line += [query.class_of(own), bank.class_of(row)]
                    writer.writerow(line)


def _check(bank, query, k, layer, places):
    """Refuses what cannot be compared, with both values."""
    for name, held in (("bank", bank), ("query", query)):
        if layer not in held.rows:
            raise ValueError(
                f"The {name} file must hold the features that are compared. "
                f"Received layer={layer!r}; it holds {', '.join(held.rows)}."
            )
    sizes = [held.rows[layer].shape[1] for held in (bank, query)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            "Bank and query must hold features of the same width. Received "
            f"{sizes[0]} and {sizes[1]}. Embed both with one encoder."
        )
    if bank.about["encoder"] != query.about["encoder"]:
        shown = [
            f"{held.about['encoder'][:16]} ({held.about['title']})"
            for held in (bank, query)
        ]
        raise ValueError(
            "Bank and query must be of the same encoder. Received "
            f"{shown[0]} and {shown[1]}. Embed both with one of them."
        )
    others = len(bank.index) - int((_own_rows(bank, query, places) >= 0).any())
    if not 1 <= k <= others:
        raise ValueError(
            "k must be from 1 to the number of images in the bank that are "
            f"not the query itself. Received k={k}, {others} images."
        )


def _own_rows(bank, query, places):
    """Rows of the bank that are the queries themselves, -1 where none is."""
    if bank.about["fingerprint"] != query.about["fingerprint"]:
        return np.full(len(places), -1)
    wanted = query.index[places]
    rows = np.minimum(np.searchsorted(bank.index, wanted), len(bank.index) - 1)
    return np.where(bank.index[rows] == wanted, rows, -1)


def _places(query, names):
    """Rows of the query file with these names, or all of them."""
    if not names:
        return np.arange(len(query.index))
    number = {name: place for place, name in enumerate(query.names)}
    missing = [name for name in names if name not in number]
    if missing:
        raise ValueError(
            "Queries are named as in the file of embeddings. Received "
            f"{', '.join(missing)}; its {len(number)} names begin with "
            f"{', '.join(query.names[:3])}."
        )
    return np.array([number[name] for name in names], np.int64)


def _same_class(bank, query, places, index):
    """Bool [q, k], or None where the classes cannot be compared."""
    if bank.labels is None or query.labels is None:
        return None
    labels = query.labels[places]
    if bank.class_names is not None and query.class_names is not None:
        # Class folders are numbered by name: sets that lack some differ.
        number = {name: place for place, name in enumerate(bank.class_names)}
        labels = np.array([number.get(x, -1) for x in query.class_names])[
            labels
        ]
    elif bank.class_names is not query.class_names:
        return None
    return bank.labels[index] == labels[:, np.newaxis]


def _open(held):
    """The source of a file, to draw its images."""
    source = sources.open_source(held.about["source"], None)
    if source.fingerprint() != held.about["fingerprint"]:
        raise ValueError(
            "A grid shows the images that were embedded, and those of "
            f"{held.about['source']!r} have changed: its fingerprint is "
            f"{source.fingerprint()[:16]}. Received a file of "
            f"{held.about['fingerprint'][:16]}. Embed them again, or draw no "
            "grid."
        )
    return source


def _summary(found, bank, query):
    """One line on what was found."""
    words = (
        f"{len(found.query)} queries of {query.about['source']}, "
        f"{found.index.shape[1]} neighbours each among {len(bank.index)} "
        f"images of {bank.about['source']}"
    )
    if found.same is not None:
        share = 100 * np.mean(found.same[:, 0])
        words += f"; of the nearest, {share:.2f} % are of the query's class"
    return words
