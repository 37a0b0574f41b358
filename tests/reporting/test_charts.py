import re

import numpy as np
import pytest

from moco_tf.reporting import charts, drawing, page
from tests.reporting import small_report


@pytest.fixture(name="drawn", scope="module")
def _drawn():
    series = [
        drawing.Series(
            "one", 0, np.array([0.0, 1.0, 3.0]), np.array([2, 5, 1])
        ),
        drawing.Series(
            "two",
            7,
            np.array([1.0, 2.0]),
            np.array([3.0, 4.0]),
            np.array([2.0, 3.0]),
            np.array([4.0, 5.0]),
            points=True,
        ),
    ]
    levels = [("chance", 6.0)]
    return drawing.draw(
        drawing.Chart("loss", "Loss", "epoch", "nats", series, levels)
    )


def _corners(svg, style):
    """The corners of the first path of a style, float [n, 2]."""
    path = re.search(rf'<path d="([^"]*)"[^>]*{re.escape(style)}', svg)[1]
    return np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), float)


@pytest.mark.parametrize("size", drawing.SIZES)
def test_the_scales_lead_to_the_points_that_are_drawn(drawn, size):
    corners = _corners(drawn.svg[size], "stroke: var(--curve-0)")
    per_x, from_x, per_y, from_y = drawn.data["scales"][size]["scale"]
    each = drawn.data["series"][0]
    across = per_x * np.array(each["x"]) + from_x
    down = per_y * np.array(each["y"]) + from_y
    np.testing.assert_allclose(corners, np.stack([across, down], 1), atol=0.01)


@pytest.mark.parametrize("size", drawing.SIZES)
def test_the_drawing_fits_its_size(drawn, size):
    width, height = drawing.SIZES[size]
    assert f'viewBox="0 0 {width} {height}"' in drawn.svg[size]
    left, top, right, bottom = drawn.data["scales"][size]["area"]
    assert 15 < left < right <= width and 0 <= top < bottom < height - 15


def test_the_axis_of_a_single_measurement_has_no_parts_of_an_epoch():
    series = [drawing.Series("kNN", 0, np.array([9.0]), np.array([50.0]))]
    levels = [("chance", 10.0)]
    drawn = drawing.draw(
        drawing.Chart("knn", "kNN", "epoch", "%", series, levels)
    )
    for svg in drawn.svg.values():
        texts = re.findall(r">([\d.]+)</text>", svg)
        assert {"8", "9", "10"} <= set(texts)
        assert not any("9." in text or "8." in text for text in texts)


def test_levels_are_told_apart_as_the_legend_shows_them():
    levels = [("raw pixels", 38.0), ("untrained", 45.0), ("chance", 10.0)]
    x = np.array([1.0, 2.0])
    series = [drawing.Series("kNN", 0, x, 40 * x)]
    drawn = drawing.draw(
        drawing.Chart("knn", "kNN", "epoch", "%", series, levels)
    )
    names, dashes = zip(*drawn.chart.legend, strict=True)
    assert names == ("raw pixels", "untrained", "chance")
    assert len(set(dashes)) == 3
    for svg in drawn.svg.values():
        drawn_as = re.findall(r"stroke-dasharray: ([\d.,]+)", svg)
        assert [text.replace(",", " ") for text in drawn_as] == list(dashes)


def test_colours_are_those_of_the_page(drawn):
    svg = drawn.svg["wide"]
    for name in ("--curve-0", "--curve-7", "--muted", "--line"):
        assert f"var({name})" in svg
    assert re.findall(r"#[0-9a-f]{6}\b", svg) == []


def test_two_drawings_in_a_page_share_no_name(drawn):
    names = [re.findall(r'\bid="([^"]*)"', x) for x in drawn.svg.values()]
    assert names[0] and not set(names[0]) & set(names[1])
    for svg, defined in zip(drawn.svg.values(), names, strict=True):
        used = re.findall(r'(?:href="|url\()#([^")]*)', svg)
        assert set(used) <= set(defined)


def test_a_drawing_names_no_address(drawn):
    assert "http" not in drawn.svg["wide"] + drawn.svg["narrow"]


def test_few_points_stay_as_they_are():
    x, y, low, high = drawing.thin([1, 2], [3.0, 4.0], [1, 1], max_points=2)
    assert x.tolist() == [1, 2] and y.tolist() == [3, 4]
    assert low is None and high is None


def test_joined_points_are_means_by_steps_between_their_extremes():
    x, y, low, high = drawing.thin(
        [1, 2, 3, 4], [1.0, 5.0, 2.0, 2.0], [3, 1, 1, 1], max_points=2
    )
    assert x.tolist() == [2, 4]
    assert y.tolist() == [2, 2]  # (3 * 1 + 1 * 5) / 4
    assert low.tolist() == [1, 2] and high.tolist() == [5, 2]


def test_a_single_point_can_be_seen():
    series = [drawing.Series("one", 0, np.array([1.0]), np.array([2.0]))]
    drawn = drawing.draw(drawing.Chart("one", "One", "epoch", "", series))
    assert "<use " in drawn.svg["wide"]  # its mark


def test_a_probe_has_a_chart_of_both_accuracies(tmp_path):
    figures = {"probe_train_top1": 0.25, "probe_loss": 1.0}
    rows = [small_report.row(1, **figures, probe_top1=0.5)]
    rows += [small_report.row(2, **figures)]
    folder = small_report.write(tmp_path / "run", rows)
    other = small_report.write(tmp_path / "other", [small_report.row(1)])
    runs = page.read_runs([folder, other])
    chart = charts._probe(runs)
    curves = {each.name: each.y.tolist() for each in chart.series}
    assert curves == {"run: training views": [25, 25], "run: test images": [50]}
    assert chart.key in {"probe"} and not charts._probe(runs[1:]).series
