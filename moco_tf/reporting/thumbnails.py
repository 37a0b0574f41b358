"""Small pictures inside a page: data addresses, and sheets of many."""

import base64
import io
import math

import numpy as np
from PIL import Image

_QUALITIES = (80, 60, 40, 25)


def address(image, side=None, quality=85):
    """An image as a data address.

    Args:
      image: uint8 [H, W, 3].
      side: int, pixels; a longer image is made as small; None: as it is.
      quality: of WebP, 1 to 100.

    Returns:
      str.
    """
    picture = Image.fromarray(np.asarray(image))
    if side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _encode(picture, quality)


def sheet(images, side, most=1_500_000):
    """Many images as one picture, row after row.

    Args:
      images: list of uint8 [S, S, 3], squares of any size.
      side: int, pixels of each in the picture.
      most: int, letters of the address; quality falls until it fits, to a
        floor of 25.

    Returns:
      dict: address, columns, rows, side.
    """
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    canvas = Image.new("RGB", (columns * side, rows * side))
    for place, image in enumerate(images):
        small = Image.fromarray(np.asarray(image))
        if small.size != (side, side):
            small = small.resize((side, side), Image.Resampling.LANCZOS)
        row, column = divmod(place, columns)
        canvas.paste(small, (column * side, row * side))
    for quality in _QUALITIES:
        found = _encode(canvas, quality)
        if len(found) <= most:
            break
    return {"address": found, "columns": columns, "rows": rows, "side": side}


def _encode(picture, quality):
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=quality, method=4)
    text = base64.b64encode(data.getvalue()).decode("ascii")
    return f"data:image/webp;base64,{text}"
