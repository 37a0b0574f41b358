"""Exact nearest neighbours among files of embeddings (`neighbours`).

The search is of cosine, in blocks; results are a CSV and, if it is asked for, a
picture of queries and their nearest images.
"""

import csv
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from moco_tf import counting, filesystem, naming, paths
from moco_tf.data import sources, specs, unreadable
from moco_tf.evaluation import accuracy, embeddings, voting

_COLUMNS = 10  # neighbours at most, beside the query
_SIDE = 96  # of an image, pixels
_CELL = (_SIDE + 34, _SIDE + 14)  # rows and columns, with caption and margin
_QUERY_MARGIN = 16  # pixels between the queries and their neighbours
_LETTERS = 17  # of a caption that fits above an image
_SAME, _OTHER = "#1a9641", "#d7191c"  # frames, by class
_GREY = 160  # an image that cannot be read


class Neighbours(NamedTuple):
    """The k nearest images of a bank to each query, by cosine."""

    query: np.ndarray  # int64 [q], rows of the query file
    index: np.ndarray  # int64 [q, k], rows of the bank file, nearest first
    cosine: np.ndarray  # float32 [q, k]
    # bool [q, k], of the query's class; masked where an image of the two has no
    # class. None: the files have no classes that can be compared.
    same: np.ma.MaskedArray | None

    def is_same(self, line, rank):
        """Whether a neighbour is of its query's class; None: unknown."""
        if self.same is None or self.same[line, rank] is np.ma.masked:
            return None
        return bool(self.same[line, rank])

    def share(self, count=None):
        """Share of the nearest `count` (None: all) of the query's class.

        Of those with a class; None where there are none.
        """
        compared = None if self.same is None else self.same[:, :count]
        if compared is None or not compared.count():
            return None
        return float(compared.mean())


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
      bank_path, query_path: of files of `embed`; they may be the same file, in
        which no image is a neighbour of itself.
      k: neighbours, 1 to the size of the bank.
      csv_path: of the results, one row a neighbour.
      grid_path: of a picture of `shown` queries and their nearest neighbours;
        "": none is drawn, and the images are not opened.
      queries: names of the images to search neighbours for, one or several
        with commas in each text; (): all.
      layer: name of the features to compare. shown: int, at least 1.

    Returns:
      Neighbours.

    Raises:
      ValueError: before any work, for what cannot be searched.

    Side effects: writes the CSV and the PNG, each complete or not at all.
    """
    bank = embeddings.load(bank_path)
    same = os.path.realpath(bank_path) == os.path.realpath(query_path)
    query = bank if same else embeddings.load(query_path)
    query_rows = _rows_named(query, queries)
    _check(bank, query, k, layer, query_rows)
    if grid_path:
        if shown < 1:
            raise ValueError(
                "A grid shows at least one query. Received "
                f"shown={shown}. Pass a larger --shown, or no --grid."
            )
        opened = [_open_source(query), _open_source(bank)]
    result = search(bank, query, k, layer, query_rows)
    write_csv(csv_path, result, bank, query)
    if grid_path:
        spread = sources.evenly_spaced(len(query_rows), shown)
        shown_part = Neighbours(
            *(x if x is None else x[spread] for x in result)
        )
        _draw(grid_path, shown_part, query, bank, *opened)
    print(_summary(result, bank, query))
    for path in filter(None, (csv_path, grid_path)):
        print(f"wrote       {paths.shown(path)}")
    return result


def search(bank, query, k, layer="backbone", query_rows=None):
    """Searches embeddings block by block; features stay on the disk.

    Args:
      bank, query: embeddings.Embeddings. k: neighbours.
      layer: name of the features to compare.
      query_rows: int64 [q], rows of the query file, in any order; None: all.

    Returns:
      Neighbours. An image that is in both files is not a neighbour of itself.

    Raises:
      ValueError: for other layers, encoders, widths, and a k that the bank
        cannot serve.
    """
    if query_rows is None:
        query_rows = np.arange(len(query.index))
    _check(bank, query, k, layer, query_rows)
    rows = query.rows[layer]
    if not np.array_equal(query_rows, np.arange(len(query.index))):
        rows = np.concatenate([rows[i : i + 1] for i in query_rows.tolist()])
    own_rows = _own_rows(bank, query, query_rows)
    more = int((own_rows >= 0).any())  # the image itself may be the nearest
    cosine, index = voting.nearest(bank.rows[layer], rows, k + more)
    if more:
        drop = index == own_rows[:, np.newaxis]
        # Where it is not among the nearest, as of many duplicates, the last
        # one goes.
        drop[~drop.any(axis=1), -1] = True
        cosine = cosine[~drop].reshape(-1, k)
        index = index[~drop].reshape(-1, k)
    same = _same_class(bank, query, query_rows, index)
    return Neighbours(query_rows, index, cosine, same)


@counting.timed("writing the neighbours")
def write_csv(path, result, bank, query):
    """Writes query, rank, neighbour, cosine and, if both have them, classes.

    Args:
      path: of the CSV. result: Neighbours. bank, query: Embeddings.

    Side effects: writes the file, complete or not at all.
    """
    with filesystem.atomic_file(path) as part:
        with open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            header = ["query", "rank", "neighbour", "cosine"]
            if result.same is not None:
                header += ["query_class", "neighbour_class"]
            writer.writerow(header)
            for query_row, rows, cosines in zip(*result[:3], strict=True):
                for rank, (row, cosine) in enumerate(
                    zip(rows, cosines, strict=True), start=1
                ):
                    line = [query.names[query_row], rank, bank.names[row]]
                    line.append(f"{cosine:.6f}")
                    if result.same is not None:
                        line.append(query.class_of(query_row))
                        line.append(bank.class_of(row))
                    writer.writerow(line)


def _check(bank, query, k, layer, query_rows):
    """Refuses what cannot be compared, with both values."""
    for name, file in (("bank", bank), ("query", query)):
        if layer not in file.rows:
            raise ValueError(
                f"The {name} file must hold the features that are compared. "
                f"Received {layer!r}; it holds {', '.join(file.rows)}. Pass "
                f"--features={next(iter(file.rows))}."
            )
    sizes = [file.rows[layer].shape[1] for file in (bank, query)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            "Bank and query must hold features of the same width. Received "
            f"{sizes[0]} and {sizes[1]}. Embed both with one encoder."
        )
    if bank.about["encoder"] != query.about["encoder"]:
        shown = [
            f"{file.about['encoder'][:16]} ({file.about['title']})"
            for file in (bank, query)
        ]
        raise ValueError(
            "Bank and query must be of the same encoder. Received "
            f"{shown[0]} and {shown[1]}. Embed both with one of them."
        )
    others = len(bank.index) - int(
        (_own_rows(bank, query, query_rows) >= 0).any()
    )
    if not 1 <= k <= others:
        remedy = f"Pass --k={others}." if others else "Embed more of them."
        raise ValueError(
            "k must be from 1 to the number of images in the bank that are "
            f"not the query itself. Received k={k}, {others} images. {remedy}"
        )


def _own_rows(bank, query, query_rows):
    """Finds the queries' own rows in the bank: int64 [q], -1 for none."""
    if bank.about["fingerprint"] != query.about["fingerprint"]:
        return np.full(len(query_rows), -1)
    wanted = query.index[query_rows]
    rows = np.minimum(np.searchsorted(bank.index, wanted), len(bank.index) - 1)
    return np.where(bank.index[rows] == wanted, rows, -1)


def _rows_named(query, names):
    """Finds the rows of the query file with these names; (): all rows."""
    if not names:
        return np.arange(len(query.index))
    rows = {name: row for row, name in enumerate(query.names)}
    names = [part for name in names for part in _split(name, rows)]
    missing = [name for name in names if name not in rows]
    if missing:
        raise ValueError(
            "Queries are named as in the file of embeddings. Received "
            f"{', '.join(missing)}; its {len(rows)} names begin with "
            f"{', '.join(query.names[:3])}."
        )
    return np.array([rows[name] for name in names], np.int64)


def _split(text, known):
    """The names that a text lists with commas, though they may hold some.

    Args:
      text: str. known: names; the longest that fits comes first.

    Returns:
      list of str; a part that is not known stands alone.
    """
    parts, names = naming.as_text(text).split(","), []
    while parts:
        ends = range(len(parts), 0, -1)
        end = next((n for n in ends if ",".join(parts[:n]) in known), 1)
        names.append(",".join(parts[:end]))
        parts = parts[end:]
    return [name for name in names if name]


def _same_class(bank, query, query_rows, index):
    """Compares classes, as `Neighbours.same` has it."""
    if bank.labels is None or query.labels is None:
        return None
    labels = query.labels[query_rows]
    # An image without a class is neither like another nor unlike it.
    known = (labels >= 0)[:, np.newaxis] & (bank.labels[index] >= 0)
    if bank.class_names is not None and query.class_names is not None:
        # Class folders are numbered by name: sets that lack some differ.
        numbers = {name: n for n, name in enumerate(bank.class_names)}
        renumbered = np.array([numbers.get(x, -1) for x in query.class_names])
        labels = renumbered[labels]
    elif bank.class_names is not query.class_names:
        return None
    same = bank.labels[index] == labels[:, np.newaxis]
    return np.ma.array(same, mask=~known)


def _open_source(file):
    """Opens the source of a file of embeddings, to draw its images."""
    specs.check_there(
        file.about["source"],
        "source",
        "embed them from their new place, or draw no grid.",
    )
    source = sources.open_source(file.about["source"], None)
    if source.fingerprint() != file.about["fingerprint"]:
        raise ValueError(
            "A grid shows the images that were embedded, and those of "
            f"{file.about['source']!r} have changed: its fingerprint is "
            f"{source.fingerprint()[:16]}. Received a file of "
            f"{file.about['fingerprint'][:16]}. Embed them again, or pass no "
            "--grid."
        )
    return source


def _summary(result, bank, query):
    """Describes the result in one line."""
    text = (
        f"{len(result.query)} queries of "
        f"{paths.shown(query.about['source'])}, "
        f"{result.index.shape[1]} neighbours each among {len(bank.index)} "
        f"images of {paths.shown(bank.about['source'])}"
    )
    share = result.share(1)
    if share is not None:
        text += (
            f"; of the nearest, {100 * share:.2f} % are of the query's class"
        )
        unknown = int(np.ma.getmaskarray(result.same)[:, 0].sum())
        if unknown:
            text += f" ({unknown} left out: an image of the two has no class)"
    return text


def _draw(path, result, query, bank, query_source, bank_source):
    """Draws one row of images a query: its own, then the nearest ones.

    A green frame is of the query's class, a red one of another class, none of
    an unknown one. An image that cannot be read is a grey tile.

    Args:
      path: of the PNG. result: Neighbours, of the queries to draw.
      query, bank: embeddings.Embeddings.
      query_source, bank_source: Sources of their images.

    Side effects: writes the file, complete or not at all.
    """
    from matplotlib import figure as figures  # half a second of every start

    count = min(_COLUMNS, result.index.shape[1])
    height = len(result.query) * _CELL[0]
    width = (1 + count) * _CELL[1] + _QUERY_MARGIN
    canvas = np.full([height, width, 3], 255, np.uint8)
    # The object interface: pyplot would keep the figure in a global list.
    figure = figures.Figure(figsize=(width / 100, height / 100))
    axes = figure.add_axes([0, 0, 1, 1])
    axes.axis("off")

    def put(line, column, file, source, row, cosine=None, same=None):
        top = (line + 1) * _CELL[0] - _SIDE - 4
        left = column * _CELL[1] + 7 + (_QUERY_MARGIN if column else 0)
        image = _image(source, int(file.index[row]))
        canvas[top : top + _SIDE, left : left + _SIDE] = image
        _caption(axes, _title(file, row), cosine, top, left)
        if same is not None:
            _frame(axes, same, top, left)

    for line, query_row in enumerate(result.query):
        put(line, 0, query, query_source, query_row)
        for rank in range(count):
            row, cosine = result.index[line, rank], result.cosine[line, rank]
            same = result.is_same(line, rank)
            put(line, 1 + rank, bank, bank_source, row, cosine, same)
    # One canvas for all images: a hundred axes would take a minute.
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    with filesystem.atomic_file(path) as part:
        figure.savefig(part, format="png", dpi=100)


def _title(file, row):
    """The class of an image, or its name; a number for what no font has."""
    if name := file.class_of(row):
        return accuracy.drawn(name, f"class {int(file.labels[row]) + 1}")
    name = pathlib.PurePath(file.names[row]).name
    return accuracy.drawn(name, f"image {int(file.index[row]) + 1}")


def _image(source, index):
    """Reads an image, fitted into uint8 [_SIDE, _SIDE, 3] on white."""
    image, _ = unreadable.read(source, index)
    if image is None:  # the file has gone or is damaged
        return np.full([_SIDE, _SIDE, 3], _GREY, np.uint8)
    fitted = ImageOps.pad(
        Image.fromarray(image.numpy()[..., :3]),  # of two files the first
        (_SIDE, _SIDE),
        Image.Resampling.BICUBIC,
        color="white",
    )
    return np.asarray(fitted)


def _caption(axes, title, cosine, top, left):
    """Writes two lines above an image; a cosine of None is of a query."""
    if len(title) > _LETTERS:
        title = title[: _LETTERS - 1] + "…"
    lines = ["query", title] if cosine is None else [title, f"{cosine:.3f}"]
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
    from matplotlib import patches

    axes.add_patch(
        patches.Rectangle(
            (left - 2, top - 2),
            _SIDE + 3,
            _SIDE + 3,
            fill=False,
            linewidth=2.5,
            edgecolor=_SAME if same else _OTHER,
        )
    )
