"""Curves over an axis, and their drawing as SVG for a page.

A curve has the page's colours, by its CSS variables, and brings its figures for
the script that reads them off at the pointer.
"""

import io
import itertools
import re
from typing import NamedTuple

import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np

# Width, height in pixels: the page shows the one that fits the screen.
SIZES = {"wide": (540, 280), "narrow": (330, 250)}
SETTINGS = {  # of Matplotlib
    "svg.fonttype": "none",  # the reader's own font, at its own contrast
    "font.size": 11,
    "axes.linewidth": 0.8,
    "svg.hashsalt": "report",  # else each run of the program has other names
}
# Matplotlib knows no CSS: it draws in colours that stand for the page's own.
INK, GRID = "#010203", "#040506"
_VARIABLES = {INK: "--muted", GRID: "--line"}
_FIRST_SERIES = 0x0A0B00
_MARKS = "os^"
# Dashes and gaps of levels, in widths of their line: they tell these apart.
_DASHES = ((2, 3), (7, 3), (7, 2, 1, 2), (1, 5))
LEVEL_WIDTH = 1.4


class Series(NamedTuple):
    """One curve.

    Attributes:
      name: of it. colour: number of the page's curve colours, from 0.
      x, y: float [n], finite.
      low, high: float [n] around it, shaded; or None.
      points: whether each point has a mark. dashed: bool.
      quiet: drawn thin, behind the others.
    """

    name: str
    colour: int
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    points: bool = False
    dashed: bool = False
    quiet: bool = False


class Chart(NamedTuple):
    """Curves over one axis.

    Attributes:
      key: of the chart in the page, a word. title, x_name, y_name: text.
      series: list of Series.
      levels: list of (name, y), horizontal lines.
      unit: "" or "%", of what is read off. note: text below the chart.
      span: (low, high) that the axis covers at least; None: that of the curves.
    """

    key: str
    title: str
    x_name: str
    y_name: str
    series: list
    levels: list = []
    unit: str = ""
    note: str = ""
    span: tuple | None = None

    @property
    def lines(self):
        """The levels, a (name, y, dashes in widths of the line) each."""
        dashes = itertools.cycle(_DASHES)
        both = zip(self.levels, dashes, strict=False)
        return [(*level, of_level) for level, of_level in both]

    @property
    def legend(self):
        """(name, dashes in pixels, as SVG has them) of each level."""
        return [
            (name, " ".join(f"{LEVEL_WIDTH * part:.1f}" for part in dashes))
            for name, _, dashes in self.lines
        ]


class Drawn(NamedTuple):
    """A chart for the page.

    Attributes:
      chart: Chart. svg: dict of SIZES -> SVG element, text.
      data: dict for the page's script: series, and of each size the linear
        scales "ax + b" from figures to pixels [a_x, b_x, a_y, b_y] and the
        drawing area.
    """

    chart: Chart
    svg: dict
    data: dict


def draw(chart):
    """Draws a chart in all SIZES; returns Drawn."""
    svg, scales = {}, {}
    for size, (width, height) in SIZES.items():
        with matplotlib.rc_context(SETTINGS):
            figure, axes = _figure(chart, width, height)
            text = io.StringIO()
            figure.savefig(
                text,
                format="svg",
                transparent=True,
                metadata={"Date": None, "Creator": None},
            )
            scales[size] = _scales(axes, width, height)
        svg[size] = for_page(text.getvalue(), f"{chart.key}-{size}")
    series = [
        {
            "name": each.name,
            "colour": each.colour,
            "x": _rounded(each.x),
            "y": _rounded(each.y),
        }
        for each in chart.series
    ]
    return Drawn(
        chart,
        svg,
        {
            "x_name": chart.x_name,
            "unit": chart.unit,
            "series": series,
            "scales": scales,
        },
    )


def thin(x, y, weights, max_points=400):
    """Joins neighbouring points where there are more than a screen shows.

    Args:
      x, y: float [n]. weights: float [n], steps that a point is the mean of.
      max_points: int.

    Returns:
      x, y, low, high float [m], m at most `max_points`: of each group the last
      x, the weighted mean, the least and the greatest value of y; low and high
      are None where nothing was joined.
    """
    if len(x) <= max_points:
        return np.asarray(x), np.asarray(y), None, None
    groups = np.array_split(np.arange(len(x)), max_points)
    y, weights = np.asarray(y), np.asarray(weights)
    return (
        np.array([x[group[-1]] for group in groups]),
        np.array([np.average(y[g], weights=weights[g]) for g in groups]),
        np.array([y[group].min() for group in groups]),
        np.array([y[group].max() for group in groups]),
    )


def _figure(chart, width, height):
    """The figure, an inch for 72 pixels, and its axes."""
    # The object interface: pyplot would keep the figure in a global list.
    figure = matplotlib.figure.Figure(
        figsize=(width / 72, height / 72), dpi=72, layout="constrained"
    )
    axes = figure.add_subplot()
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.spines["bottom"].set_visible(True)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, pad=6)
    axes.set_xlabel(chart.x_name, color=INK)
    axes.set_ylabel(chart.y_name, color=INK)
    axes.xaxis.set_major_locator(
        matplotlib.ticker.MaxNLocator(nbins=width // 70, integer=True)
    )
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(nbins=5))
    for _, value, dashes in chart.lines:  # the page's legend has the names
        style = (0, dashes)
        axes.axhline(value, color=INK, linewidth=LEVEL_WIDTH, linestyle=style)
    for each in sorted(chart.series, key=lambda each: not each.quiet):
        _plot(axes, each)
    axes.margins(x=0.02)
    first, last = axes.dataLim.intervalx
    if first == last:  # a single measurement: its epoch, and no parts of one
        axes.set_xlim(first - 1, last + 1)
    if chart.span:
        low, high = axes.dataLim.intervaly
        low, high = min(low, chart.span[0]), max(high, chart.span[1])
        axes.set_ylim(low, high + 0.05 * (high - low))
    figure.draw_without_rendering()  # lays it out: scales can be asked for
    figure.set_layout_engine("none")
    return figure, axes


def _plot(axes, each):
    """Draws a Series."""
    colour = stand_in(each.colour)
    if each.low is not None:
        axes.fill_between(
            each.x, each.low, each.high, color=colour, alpha=0.18, linewidth=0
        )
    # There are eight colours: runs beyond have marks of other shapes.
    marked = each.points or len(each.x) == 1 or each.colour > 7
    axes.plot(
        each.x,
        each.y,
        color=colour,
        linewidth=1.2 if each.quiet else 2,
        alpha=0.6 if each.quiet else 1,
        linestyle=(0, (5, 3)) if each.dashed else "-",
        marker=_MARKS[each.colour // 8 % 3] if marked else None,
        markevery=max(1, len(each.x) // 12) if each.colour > 7 else None,
        markersize=5,
    )


def stand_in(number):
    """The colour that stands for a curve's own in a drawing, "#rrggbb"."""
    return f"#{_FIRST_SERIES + number:06x}"


def _scales(axes, width, height):
    """Pixels from the upper left of x and y, and the drawing area."""
    (x0, y0), (x1, y1) = axes.transData.transform([(0, 0), (1, 1)])
    box = axes.bbox
    area = [box.x0, height - box.y1, box.x1, height - box.y0]
    scale = [x1 - x0, x0, y0 - y1, height - y0]
    return {
        "size": [width, height],
        "scale": [float(f"{value:.7g}") for value in scale],
        "area": [round(value, 1) for value in area],
    }


def for_page(svg, prefix):
    """Takes the SVG element out of Matplotlib's file, to stand in a page.

    Colours that stand for others become the page's own. Its text is that of
    this program alone, axis names and numbers: names of classes and files
    never come here.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s*xmlns(:xlink)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    # Another chart of the page has the same names.
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{prefix}-", svg)
    svg = re.sub(r"font(-family)?: [^;\"]*(sans-serif|'DejaVu Sans')", "", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    series = rf"#{_FIRST_SERIES >> 8:04x}([0-9a-f]{{2}})"
    svg = re.sub(series, lambda m: f"var(--curve-{int(m[1], 16) % 8})", svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1).strip()


def _rounded(values):
    """Numbers with the digits that a reader can see."""
    return [float(f"{value:.6g}") for value in values]
