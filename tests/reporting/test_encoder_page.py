"""The page of `compare`, drawn from what compare.json holds."""

import re

import pytest

from moco_tf.evaluation import paired
from moco_tf.reporting import encoder_page
from tests.reporting import browser

HOSTILE = "</script><script>window.hurt = 1</script>"


def change(mean, low, high):
    """A difference as compare.json has it."""
    difference = paired.Difference(mean, low, high, 5, 3, 100)
    words = {"verdict": difference.verdict, "words": difference.describe()}
    return difference._asdict() | words


def result(names, labelled=True):
    """The dict of a comparison; every second encoder is worse."""
    count = len(names)
    entries = []
    for number, name in enumerate(names):
        entry = {
            **{"name": name, "given": name, "kind": "run", "title": name},
            **{"identity": "ab" * 32, "image_size": 32, "views": "v1"},
            **{"mean": [0.5] * 3, "std": [0.25] * 3, "parameters": 704_496},
            **{"bytes": 2_817_984, "dimension": 128, "alignment": 0.1},
            **{"uniformity": -1.0, "effective_rank": 20.0},
            **{"feature_norm": 3.0, "difference": {}},
            "images_per_second": {"median": 900.0, "low": 800.0, "high": 990.0},
        }
        if labelled:
            entry["knn"] = {"top1": 0.8, "low": 0.7, "high": 0.9}
            clear = change(-0.2, -0.3, -0.1)
            within = change(0.01, -0.02, 0.04)
            entry["difference"] = {"knn": clear if number % 2 else within}
        entries.append(entry)
    del entries[0]["difference"]
    spans = [{"share": 0.4, "low": 0.3, "high": 0.5}] * (count - 1)
    return {
        "moco_tf": "0.1.0",
        "written": "2026-01-01T00:00:00+00:00",
        "devices": ["/device:CPU:0"],
        "images": {
            **{"bank": "folder:a", "query": "", "one_set": True},
            **{"bank_images": 100, "queries": 100, "classes": 2},
            **{"unreadable": 1, "bank_unreadable": 1},
            "no_accuracy": "" if labelled else "There are no labels.",
        },
        "settings": {
            **{"k": 20, "temperature": 0.1, "probe": False, "batch": 64},
            "no_probe": "It was not asked for.",
        },
        "encoders": entries,
        "agreement": [[1.0 if i == j else 0.4 for i in range(count)]
                      for j in range(count)],
        "agreement_with_first": spans,
        "agreement_by_chance": 0.2,
    }  # fmt: skip


def test_no_difference_is_called_where_the_interval_reaches_0():
    lines = encoder_page.verdicts(result(["a", "b", "c"]))
    assert lines == [
        "kNN: b against a: worse by 20.00 points (95 %: 10.00 to 30.00)",
        "kNN: c against a: no difference (+1.00 points; 95 %: -2.00 to +4.00)",
    ]
    page = encoder_page.render(result(["a", "b", "c"]))
    assert all(line in page for line in lines)


def test_names_of_others_are_text_on_the_page():
    page = encoder_page.render(result([HOSTILE, "b"]))
    assert HOSTILE not in page
    assert "&lt;/script&gt;" in page
    figure = encoder_page.draw(result([HOSTILE, "b"]))
    assert all("hurt" not in svg for svg in figure["svg"].values())


def test_a_page_of_twenty_has_a_row_and_a_mark_for_each():
    names = [f"runs/{number}" for number in range(20)]
    page = encoder_page.render(result(names))
    table = page[page.index('id="figures"') : page.index('id="agreement"')]
    assert len(re.findall(r'<th scope="row">', table)) == 20
    svg = encoder_page.draw(result(names))["svg"]["narrow"]
    assert all(f">{number}</text>" in svg for number in range(1, 21))


def test_without_labels_the_figure_is_of_shared_neighbours():
    unlabelled = result(["a", "b"], labelled=False)
    assert encoder_page.verdicts(unlabelled) == []
    figure = encoder_page.draw(unlabelled)
    assert figure["title"] == "Neighbours shared with a"
    page = encoder_page.render(unlabelled)
    assert "There are no labels." in page and "kNN top-1" not in page


@pytest.mark.system
@pytest.mark.skipif(not browser.PATH, reason="needs Chromium on PATH")
@pytest.mark.parametrize("count", [3, 20])
def test_the_page_fits_screens_and_asks_for_nothing(tmp_path, count):
    path = tmp_path / "compare.html"
    names = ["long-" * 20, *(f"runs/{n}@best" for n in range(1, count))]
    encoder_page.write(result(names), path)
    (tmp_path / "profile").mkdir()
    shown = browser.Browser(tmp_path / "profile")
    try:
        for width, height in ((360, 800), (1440, 900)):
            for dark in (False, True):
                shown.open(path, width, height, dark)
                fits = shown.run("document.documentElement.scrollWidth")
                assert fits <= width
                assert len(shown.requests) == 1 and not shown.complaints
        narrow = "document.querySelector('.still .narrow').offsetWidth"
        assert shown.run(narrow) == 0
    finally:
        shown.close()
