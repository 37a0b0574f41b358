"""A picture of queries and their nearest neighbours."""

import pathlib

import matplotlib.figure
import matplotlib.patches
import numpy as np
from PIL import Image, ImageOps

from moco_tf import whole
from moco_tf.data import unreadable

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
      path: of the PNG. found: neighbours.Found, of the queries to draw.
      query, bank: embedding_files.Embeddings.
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
    with whole.file(path) as part:
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
