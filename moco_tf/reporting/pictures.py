"""The parts of a report that need images, ready for the page."""

import numpy as np
import tensorflow as tf

from moco_tf.reporting import encoded, maps, samples, thumbnails
from moco_tf.training import checkpoints

_SIDE = 112  # of a picture in a grid, pixels
_TILE = 64  # of a picture of the map, pixels
_PALETTE = (
    "#4e79a7", "#f28e2b", "#e15759", "#50a8a0", "#59a14f",
    "#d3a91f", "#b07aa1", "#f7819f", "#9c755f", "#8a8a8a",
)  # fmt: skip
# What data that has gone, or an encoder that does not fit, ends in.
_FAILURES = (ValueError, OSError, tf.errors.OpError)


class Sheets:
    """Pictures that are in the page once, however many runs show them."""

    def __init__(self, most):
        """Holds none yet; `most` is the size of one, letters."""
        self.found = []
        self._most = most
        self._known = {}

    def add(self, key, images, side):
        """Returns the number of a sheet of these images; `key` names them."""
        if key not in self._known:
            self._known[key] = len(self.found)
            self.found.append(thumbnails.sheet(images, side, self._most))
        return self._known[key]


def of_run(run, checkpoint, most, sheets, alone=True):
    """Makes the pictures of one run.

    Args:
      run: runs.Run. checkpoint: as `restored.find_checkpoint` takes it.
      most: int, images on the map. sheets: Sheets, which it adds to.
      alone: as `encoded.encode`.

    Returns:
      dict: "map", "near" and "pairs", each a dict for the template; one that
      cannot be made is {"missing": why}.
    """
    found = {"pairs": _attempt(_pairs, run)}
    if checkpoint == "latest" and not checkpoints.complete(run.workdir):
        none = {
            "missing": "This run has no checkpoint yet. The first one brings "
            "the features that are shown here."
        }
        return {**found, "map": none, "near": none}
    test = _attempt(encoded.encode, run, checkpoint, most, alone)
    if isinstance(test, dict):
        return {**found, "map": test, "near": test}
    found["map"] = _attempt(_map, test, sheets)
    found["near"] = _attempt(_near, test)
    return found


def _attempt(make, *arguments):
    try:
        return make(*arguments)
    except _FAILURES as error:
        words = getattr(error, "message", None) or str(error)
        return {"missing": words}


def _pairs(run):
    source = samples.open_source(run, run.config.data.source)
    return {
        "spec": run.config.data.source,
        "total": len(source),
        "changed": bool(
            run.fingerprint and source.fingerprint() != run.fingerprint
        ),
        "small": run.config.data.image_size < _TILE,
        "rows": [
            {
                "name": pair.name,
                "pictures": [
                    (words, thumbnails.address(image, _SIDE))
                    for words, image in (
                        ("image", pair.whole),
                        ("query", pair.query),
                        ("key", pair.key),
                    )
                ],
            }
            for pair in samples.pairs(run.config, source)
        ],
    }


def _map(test, sheets):
    if len(test.images) < 2:
        raise ValueError("A map needs two images or more that can be read.")
    planes = maps.planes(test.held.rows[encoded.LAYER])
    side = min(_TILE, len(test.images[0]))
    key = (test.held.about["fingerprint"], test.held.index.tobytes(), side)
    labels, names = test.held.labels, []
    if labels is not None:
        present, labels = np.unique(labels, return_inverse=True)
        classes = test.held.class_names
        names = [classes[x] if classes else str(x) for x in present.tolist()]
    counts = np.bincount(labels) if names else []
    return {
        "spec": test.spec,
        "total": test.total,
        "checkpoint": test.judged.title,
        "planes": planes,
        "points": {x.way: x.points.tolist() for x in planes},
        "notes": {x.way: x.note for x in planes},
        "sheet": sheets.add(key, test.images, side),
        "labels": labels.tolist() if names else [],
        "names": list(test.held.names),
        "classes": [
            {"name": name, "colour": colour, "count": int(count)}
            for name, colour, count in zip(
                names, colours(len(names)), counts, strict=True
            )
        ],
    }


def _near(test):
    found = encoded.find_neighbours(test)
    if found is None:
        raise ValueError("A single image has no neighbours.")
    wanted = np.unique(
        [*test.held.index[found.query], *test.bank.index[found.index.ravel()]]
    )
    images = test.views(wanted)

    def picture(held, row, cosine=None, same=None):
        index = int(held.index[row])
        image = images.get(index)
        return {
            "address": None
            if image is None
            else thumbnails.address(image, _SIDE),
            "name": held.names[row],
            "class": held.class_of(row),
            "cosine": cosine,
            "same": same,
        }

    return {
        "bank": len(test.bank.index),
        "small": len(test.images[0]) < _TILE,
        "share": None if found.same is None else float(found.same.mean()),
        "rows": [
            {
                "query": picture(test.held, own),
                "near": [
                    picture(
                        test.bank,
                        row,
                        float(found.cosine[place, rank]),
                        None
                        if found.same is None
                        else bool(found.same[place, rank]),
                    )
                    for rank, row in enumerate(found.index[place])
                ],
            }
            for place, own in enumerate(found.query)
        ],
    }


def colours(count):
    """Colours of so many classes, CSS; alike ones are far apart."""
    if count <= len(_PALETTE):
        return list(_PALETTE[:count])
    # The golden angle: neighbours in the list are far apart on the wheel.
    return [f"hsl({n * 137.508 % 360:.0f} 55% 52%)" for n in range(count)]
