"""Draws the rooms and their imports: python tests/house.py --write.

docs/images/house.svg is made from the imports themselves; without --write
nothing but its state is told.
"""

import fnmatch
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests import build_files, source_reads  # noqa: E402

DRAWING = ROOT / "docs" / "images" / "house.svg"
# From the roof down. Folders are rooms; the modules beside them are three.
ROOMS = {
    "cli": ("__main__", "cli*", "command_line", "quiet"),
    "doctor": (),
    "serving": (),
    "pretrain": ("pretrain", "benchmark", "prepare"),
    "reporting": (),
    "evaluation": (),
    "config": (
        "assembly", "config*", "environment", "method_table", "naming",
        "workdirs",
    ),
    "training": (),
    "methods": (),
    "monitoring": (),
    "cluster": (),
    "models": (),
    "data": ("locks", "whole"),
}  # fmt: skip
_STEP, _RISE, _WIDTH, _HEIGHT, _EDGE = 62, 42, 100, 28, 12
_STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #1c2733; }
  rect { fill: #e6eef7; stroke: #46617e; }
  path { stroke: #46617e; fill: none; }
  circle, marker path { fill: #46617e; stroke: none; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e8edf2; }
    rect { fill: #22303f; stroke: #8fabc8; }
    path { stroke: #8fabc8; }
    circle, marker path { fill: #8fabc8; }
  }
"""


def room_of(name):
    """The room of a path below moco_tf, as "data/views" or "config_schema".

    Raises:
      ValueError: for a folder or a module that has no room yet.
    """
    first = name.split("/")[0]
    for room, modules in ROOMS.items():
        if first == room or any(fnmatch.fnmatch(first, m) for m in modules):
            return room
    raise ValueError(f"moco_tf/{name} must be of a room of {__file__}.")


def imports():
    """(importing room, imported room) of all modules, a set."""
    found = set()
    package = ROOT / "moco_tf"
    for path in package.rglob("*.py"):
        own = path.relative_to(package).with_suffix("").as_posix()
        if own == "__init__":
            continue
        for dotted in source_reads.reads(path, ROOT)[0]:
            label = build_files.label(dotted, path) or ""
            inner = label.removeprefix("//moco_tf").replace(":", "/")
            if label.startswith("//moco_tf") and inner:
                found.add((room_of(own), room_of(inner.strip("/"))))
    return {(room, other) for room, other in found if room != other}


def drawing(arrows):
    """An SVG: a staircase of the rooms; a dot drops into what is imported."""
    places = {room: place for place, room in enumerate(ROOMS)}
    last = len(ROOMS) - 1
    width = 2 * _EDGE + last * _STEP + _WIDTH
    height = 2 * _EDGE + last * _RISE + _HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} '
        f'{height}" width="{width}" height="{height}" role="img">',
        "<title>Which room of moco_tf imports which: all go down</title>",
        f"<style>{_STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" '
        'markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z"/></marker></defs>',
    ]
    for room, place in places.items():
        reached = [places[b] for a, b in arrows if a == room]
        above = [places[a] for a, b in arrows if b == room]
        if reached:
            right = _EDGE + place * _STEP + _WIDTH
            level = _middle(place)
            parts.append(f'<path d="M{right} {level}H{_drop(max(reached))}"/>')
        if above:
            top = _EDGE + place * _RISE
            parts.append(
                f'<path d="M{_drop(place)} {_middle(min(above))}V{top}" '
                'marker-end="url(#head)"/>'
            )
    for room, other in sorted(arrows, key=lambda arrow: _key(places, arrow)):
        parts.append(
            f'<circle cx="{_drop(places[other])}" '
            f'cy="{_middle(places[room])}" r="4">'
            f"<title>{room} imports {other}</title></circle>"
        )
    for room, place in places.items():
        left, top = _EDGE + place * _STEP, _EDGE + place * _RISE
        parts.append(
            f'<rect x="{left}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" '
            f'rx="4"/><text x="{left + 10}" y="{top + 19}">{room}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _key(places, arrow):
    return [places[room] for room in arrow]


def _middle(place):
    return _EDGE + place * _RISE + _HEIGHT // 2


def _drop(place):
    return _EDGE + place * _STEP + _WIDTH // 2


if __name__ == "__main__":
    made = drawing(imports())
    fresh = DRAWING.is_file() and DRAWING.read_text() == made
    if sys.argv[1:] == ["--write"]:
        DRAWING.write_text(made)
    elif not fresh:
        sys.exit(f"{DRAWING.relative_to(ROOT)} is out of date")
