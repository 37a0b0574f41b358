"""The page of `compare`: encoders side by side, one HTML file.

It is drawn from the dict of compare.json alone. Figures that have an interval
are drawn with it, and no difference is called one whose interval reaches 0.
"""

import io
import math

import matplotlib
import matplotlib.figure
import matplotlib.ticker

from moco_tf import filesystem, paths
from moco_tf.reporting import drawing, page

MEASURES = {"knn": "kNN", "probe": "linear probe"}
HEADS = {  # of the columns, in order
    "knn": "kNN top-1",
    "knn_difference": "kNN, to the first",
    "probe": "probe top-1",
    "probe_difference": "probe, to the first",
    "shared": "shared neighbours",
    "alignment": "alignment",
    "uniformity": "uniformity",
    "effective_rank": "effective rank",
    "feature_norm": "feature norm",
    "images_per_second": "images/s",
    "parameters": "parameters",
    "bytes": "size",
    "dimension": "dimension",
}
_ROW = 26  # pixels of an encoder in a figure
_MARGIN = 74  # pixels of a panel beside its rows
_TONES = {"better": "good", "worse": "warn", "no difference": "plain"}


def write(result, path):
    """Writes the page, completely or not at all.

    Args:
      result: dict of compare.json. path: pathlib.Path of the file.
    """
    text = render(result)
    with filesystem.atomic_file(path) as part:
        # A file's name need not be text: what cannot be written becomes "?".
        part.write_bytes(text.encode("utf-8", "replace"))


def render(result):
    """Renders the page of a comparison, str."""
    entries = result["encoders"]
    table = [cells(result, number) for number in range(len(entries))]
    columns = [x for x in HEADS if any(row[x] for row in table)]
    template = page.template("encoders.html")
    return template.render(
        result=result,
        runs=entries,  # as the macros of a report call them
        columns=[
            (HEADS[name], [row[name] for row in table]) for name in columns
        ],
        verdicts=[
            (_TONES[change["verdict"]], text)
            for (_, _, change), text in zip(
                _changes(result), verdicts(result), strict=True
            )
        ],
        figure=draw(result),
        preprocessing=[preprocessing(entry) for entry in entries],
        agreement=[
            [round(100 * share) for share in row] for row in result["agreement"]
        ],
        about=_about(result),
    )


def verdicts(result):
    """A sentence for each encoder and measure, beside the first; a list."""
    first = result["encoders"][0]["name"]
    return [
        f"{MEASURES[measure]}: {entry['name']} against {first}: "
        f"{change['words']}"
        for entry, measure, change in _changes(result)
    ]


def _changes(result):
    """Each (encoder, measure, its difference to the first), a list."""
    return [
        (entry, measure, change)
        for entry in result["encoders"][1:]
        for measure, change in entry["difference"].items()
    ]


def cells(result, number):
    """The figures of an encoder as text, by column; "" where it has none.

    Args:
      result: dict of compare.json. number: int, of the encoder, from 0.
    """
    entry = result["encoders"][number]
    shown = {}
    for measure in MEASURES:
        top1, change = (
            entry.get(measure),
            entry.get("difference", {}).get(measure),
        )
        shown[measure] = f"{100 * top1['top1']:.2f} %" if top1 else ""
        shown[f"{measure}_difference"] = _span(change) if change else ""
    speed = entry["images_per_second"]
    share = 100 * result["agreement"][0][number]
    return shown | {
        "shared": f"{share:.1f} %" if number else "",
        "alignment": f"{entry['alignment']:.3f}",
        "uniformity": f"{entry['uniformity']:.3f}",
        "effective_rank": f"{entry['effective_rank']:.1f}",
        "feature_norm": f"{entry['feature_norm']:.3g}",
        "images_per_second": f"{speed['median']:,.0f}" if speed else "",
        "parameters": f"{entry['parameters']:,}" if entry["parameters"] else "",
        "bytes": f"{entry['bytes'] / 1e6:,.1f} MB" if entry["bytes"] else "",
        "dimension": f"{entry['dimension']:,}",
    }


def _span(change):
    """A difference and its interval in points, as short as can be."""
    mean, low, high = (100 * change[name] for name in ("mean", "low", "high"))
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def preprocessing(entry):
    """The images that an encoder takes, in words.

    Args:
      entry: dict of an encoder in compare.json.
    """
    size = f"{entry['image_size']} x {entry['image_size']} pixels"
    if entry["views"]:
        size += f" as views {entry['views']} has them"
    mean, std = ("/".join(f"{x:g}" for x in entry[n]) for n in ("mean", "std"))
    return f"{size}, mean {mean}, std {std}"


def draw(result):
    """The figure: of each encoder the difference to the first, its interval.

    Without labels, the neighbours that it shares with the first.

    Args:
      result: dict of compare.json.

    Returns:
      dict: title, note, and svg, a dict of drawing.SIZES -> SVG element.
    """
    panels = _panels(result)
    svg = {}
    for size, (width, _) in drawing.SIZES.items():
        along = size == "wide" and len(panels) > 1
        rows, columns = (1, len(panels)) if along else (len(panels), 1)
        with matplotlib.rc_context(drawing.SETTINGS):
            height = (_MARGIN + _ROW * len(result["encoders"])) * rows
            width = 2 * width if size == "wide" else width  # of the page
            figure = matplotlib.figure.Figure(
                figsize=(width / 72, height / 72), dpi=72, layout="constrained"
            )
            for axes, panel in zip(
                figure.subplots(rows, columns, squeeze=False).flat,
                panels,
                strict=True,
            ):
                _draw_panel(axes, *panel)
            text = io.StringIO()
            figure.savefig(
                text,
                format="svg",
                transparent=True,
                metadata={"Date": None, "Creator": None},
            )
        svg[size] = drawing.for_page(text.getvalue(), f"encoders-{size}")
    first = result["encoders"][0]["name"]
    title, note = (
        f"Difference to {first}",
        "Points of accuracy with their interval of 95 %. An open mark: the "
        "interval reaches 0, which is no difference.",
    )
    if not _changes(result):
        title, note = (
            f"Neighbours shared with {first}",
            "Of the nearest images of each query, with the interval of 95 %. "
            "Dotted: what two encoders would share by chance.",
        )
    return {"title": title, "note": note, "svg": svg}


def _panels(result):
    """What is drawn: (axis, level, [(mean, low, high, is clear)]) for each."""
    panels = []
    for measure, words in MEASURES.items():
        if measure not in result["encoders"][0]:
            continue
        rows = [(0.0, 0.0, 0.0, False)]
        for entry in result["encoders"][1:]:
            change = entry["difference"][measure]
            span = [100 * change[name] for name in ("mean", "low", "high")]
            rows.append((*span, change["verdict"] != "no difference"))
        panels.append((f"{words}, points", 0.0, rows))
    if not panels:
        rows = [(100.0, 100.0, 100.0, True)]
        for share in result["agreement_with_first"]:
            span = [100 * share[name] for name in ("share", "low", "high")]
            rows.append((*span, True))
        level = 100 * result["agreement_by_chance"]
        panels.append(("shared neighbours, %", level, rows))
    return panels


def _draw_panel(axes, name, level, rows):
    """Draws a row of a mark and its interval for each encoder, by number."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.grid(axis="x", color=drawing.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=drawing.INK, length=0, pad=6)
    axes.axvline(level, color=drawing.INK, linewidth=1.4, linestyle=(0, (2, 3)))
    for number, (mean, low, high, is_clear) in enumerate(rows):
        colour = drawing.stand_in(number)
        axes.plot([low, high], [number, number], color=colour, linewidth=2)
        axes.plot(
            mean,
            number,
            marker="os^"[number // 8 % 3],
            color=colour,
            markersize=8,
            markeredgewidth=2,
            fillstyle="full" if is_clear else "none",
        )
    axes.set_yticks(range(len(rows)), [f"{n + 1}" for n in range(len(rows))])
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the first on top
    axes.set_xlabel(name, color=drawing.INK)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(nbins=5))
    if math.isclose(*axes.get_xlim(), abs_tol=1e-3):
        axes.set_xlim(level - 1, level + 1)


def _about(result):
    """What was measured, and how: [(label, text)]."""
    images, settings = result["images"], result["settings"]
    bank, query = images["bank"], images["query"]
    if images["one_set"]:
        words = f"{bank}: {images['queries']:,}, each against the others"
        lines = [("Images", words)]
    else:
        lines = [
            ("Images that vote", f"{bank}: {images['bank_images']:,}"),
            ("Images to classify", f"{query}: {images['queries']:,}"),
        ]
    lines.append(("Unreadable, left out for all", str(images["unreadable"])))
    if images["no_accuracy"]:
        lines.append(("No accuracy", images["no_accuracy"]))
    else:
        lines.append(("Classes", str(images["classes"])))
    vote = f"k {settings['k']}, temperature {settings['temperature']:g}, cosine"
    lines.append(("kNN", vote))
    if settings["probe"]:
        words = "logistic regression on standardised features (L-BFGS)"
        if images["one_set"]:
            words += "; each half is classified by that of the other half"
        lines.append(("Linear probe", words))
    elif not images["no_accuracy"]:
        lines.append(("No linear probe", settings["no_probe"]))
    lines.append(("Devices", ", ".join(result["devices"])))
    return [(label, paths.shown(text)) for label, text in lines]
