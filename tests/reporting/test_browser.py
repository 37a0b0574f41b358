"""A report as a person meets it: in a browser, by pointer and by key."""

import numpy as np
import pytest

from moco_tf.data import sources, views
from moco_tf.evaluation import embeddings
from moco_tf.reporting import page, pictures, samples
from tests.reporting import browser, small_report

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not browser.PATH, reason="needs Chromium on PATH"),
]

SIZES = {"phone": (360, 800), "tablet": (820, 1180), "desktop": (1440, 900)}
HOSTILE = "</script><script>window.hurt = 1</script>"
CLASSES = ["long-" * 30, HOSTILE, "猫"]


def _encode(run, checkpoint, most, is_single=True):
    """Three groups of grey images, as an encoder would have them."""
    del run, checkpoint, is_single
    labels = np.arange(most) % 3
    random = np.random.default_rng(0)
    images = random.integers(0, 60, [most, 16, 16, 3], np.uint8)
    images += (80 * labels[:, np.newaxis, np.newaxis, np.newaxis]).astype(
        np.uint8
    )
    rows = np.eye(8)[labels] + 0.1 * random.standard_normal([most, 8])
    shown = embeddings.Embeddings(
        {samples.LAYER: rows.astype(np.float32)},
        np.arange(most),
        [f"{CLASSES[label]}/{n}.png" for n, label in enumerate(labels)],
        labels,
        CLASSES,
        {"fingerprint": "f", "encoder": "e"},
    )
    source = sources.ArraySource(images, labels, CLASSES, "grey")

    class Encoder:
        image_size, title = 16, "checkpoints/" + 9 * "very-long-"
        recipe = views.RECIPES["cifar"]

    view = samples.EvaluationViews(source, Encoder.recipe, 16)
    return samples.Encoded(
        source, "grey:train", most, list(images), shown, shown, Encoder, view
    )


@pytest.fixture(name="paths", scope="module")
def _paths(tmp_path_factory):
    """A report of one run and one of two, whose names are long."""
    root = tmp_path_factory.mktemp("reports")
    rows = [small_report.row(n, alignment=0.1 * n) for n in (1, 2, 3)]
    workdirs = [
        str(
            small_report.write(
                root / name, rows, data__source="folder:/nowhere/cifar10"
            )
        )
        for name in ("é" * 60, "b" * 90)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "encode", _encode)
        patch.setattr(pictures.checkpoints, "complete", lambda workdir: [1])
        return {
            "one": page.write(workdirs[:1], str(root / "1.html"), images=40),
            "two": page.write(workdirs, str(root / "2.html"), images=40),
        }


@pytest.fixture(name="window", scope="module")
def _window(tmp_path_factory):
    window = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield window
    window.close()


@pytest.fixture(name="open_page")
def _open_page(window, paths):
    def open_page(which="one", size="desktop", dark=False):
        window.open(paths[which], *SIZES[size], dark)
        return window

    return open_page


@pytest.mark.parametrize("which", ["one", "two"])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_wider_than_the_window(open_page, which, size):
    page = open_page(which, size)
    root = "document.documentElement"
    assert page.run("innerWidth") == SIZES[size][0]
    assert page.run(f"{root}.scrollWidth") <= SIZES[size][0]
    # Nor does a word stand outside of what scrolls by itself.
    outside = page.run(
        "[...document.querySelectorAll('h1,h2,h3,p,li,dd,td,button,figcaption')]"
        ".filter(e => !e.closest('.scroll,nav,.hidden') &&"
        " e.offsetWidth && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.textContent)"
    )
    assert outside == []


@pytest.mark.parametrize("which", ["one", "two"])
def test_scripts_run_and_nothing_is_fetched(open_page, which):
    page = open_page(which)
    assert page.complaints == []
    assert len(page.requests) == 1  # the file itself
    assert page.run("window.hurt") is None
    assert page.run("document.querySelectorAll('.theme:not([hidden])').length")


@pytest.mark.parametrize("dark", [False, True])
def test_words_have_contrast(open_page, dark):
    page = open_page(dark=dark)
    colours = page.run(
        "['.note', 'h2', '.tiles dt', 'summary', '.good .mark', '.contents a']"
        ".map(s => { const e = document.querySelector(s); let b = e;"
        " const ground = e => getComputedStyle(e).backgroundColor;"
        " while (ground(b) === 'rgba(0, 0, 0, 0)') b = b.parentElement;"
        " return [getComputedStyle(e).color, ground(b)]; })"
    )
    assert len(colours) == 6
    for words, ground in colours:
        assert _contrast(words, ground) >= 4.5  # WCAG 2.1, level AA
    assert (_luminance(colours[1][1]) < 0.2) == dark


def test_the_button_changes_the_theme(open_page):
    page = open_page()
    ground = "getComputedStyle(document.body).backgroundColor"
    assert _luminance(page.run(ground)) > 0.8
    page.run("document.getElementById('theme').click()")
    assert _luminance(page.run(ground)) < 0.2
    assert page.run("document.getElementById('theme').textContent") == "Light"


def test_the_keys_read_a_curve(open_page):
    page = open_page()
    page.run("document.querySelectorAll('.plot')[1].focus()")  # kNN
    page.press("ArrowRight")
    tip = "document.querySelectorAll('.plot .tip')[1]"
    text = page.run(f"{tip}.innerText")
    assert text.splitlines()[:3] == [
        "epoch 1",
        "backbone: 50\u00a0%",
        "projection: 25\u00a0%",
    ]
    assert "published, 200 epochs: 31.98\u00a0%" in text
    spoken = page.run(
        "document.querySelectorAll('.chart [aria-live]')[1].textContent"
    )
    assert spoken.startswith("epoch 1, backbone: 50\u00a0%")
    page.press("ArrowRight")
    assert page.run(f"{tip}.innerText").startswith("epoch 2")
    page.press("Escape")
    assert page.run(f"{tip}.hidden")


@pytest.mark.parametrize("size", ["phone", "desktop"])
def test_the_pointer_reads_the_curve_below_it(open_page, size):
    page = open_page(size=size)
    # The mark of the second epoch's loss, as the browser has laid it out.
    x, y = page.run(
        "(() => { const plot = document.querySelector('.plot');"
        " plot.scrollIntoView({block: 'center', behavior: 'instant'});"
        " const marks = [...plot.querySelectorAll('use')]"
        " .filter(e => e.getBoundingClientRect().width > 0 &&"
        " e.getAttribute('style').includes('--curve-0'));"
        " const box = marks[1].getBoundingClientRect();"
        " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
    )
    page.point(x, y)
    text = page.run("document.querySelector('.plot .tip').innerText")
    assert text.startswith("epoch 2\n")
    assert "mean of an epoch: 6.8" in text


def _shown(page):
    """Words of the map's card, or None."""
    return page.run(
        "document.querySelector('.shown').hidden ? null :"
        " document.querySelector('.words').innerText"
    )


def test_the_keys_walk_over_the_map(open_page):
    page = open_page()
    page.run("document.querySelector('.frame svg').focus()")
    page.press("ArrowRight")
    first = _shown(page)
    ring = "+document.querySelector('.ring').getAttribute('cx')"
    before = page.run(ring)
    page.press("ArrowRight")
    assert page.run(ring) > before
    assert _shown(page) != first
    page.press("Escape")
    assert _shown(page) is None


def test_the_pointer_shows_the_image_below_it(open_page):
    page = open_page()
    x, y = page.run(
        "(() => { const c = document.querySelectorAll('.frame circle')[7];"
        " c.scrollIntoView({block: 'center', behavior: 'instant'});"
        " const box = c.getBoundingClientRect();"
        " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
    )
    page.point(x, y)
    assert _shown(page).endswith(f"{CLASSES[1]}/7.png")  # 7 is of class 1
    # 40 images are 7 columns and 6 rows: the eighth begins the second row.
    position = page.run(
        "document.querySelector('.picture').style.backgroundPosition"
    )
    assert position == "0% 20%"


def test_a_class_can_be_seen_alone(open_page):
    page = open_page()
    page.run("document.querySelectorAll('[data-class]')[2].click()")
    dim = "document.querySelectorAll('.frame circle.dim').length"
    assert page.run(dim) == 40 - 13  # of 0..39, 13 are 2 modulo 3
    page.run("document.querySelector('.frame svg').focus()")
    page.press("ArrowRight")
    assert _shown(page).startswith("猫")
    page.run("document.querySelectorAll('[data-class]')[2].click()")
    assert page.run(dim) == 0


def test_a_button_lays_the_map_out_otherwise(open_page):
    page = open_page()
    x = "document.querySelector('.frame circle').getAttribute('cx')"
    before = page.run(x)
    page.run("document.querySelector('[data-way=pca]').click()")
    assert page.run(x) != before
    note = page.run("document.querySelector('[data-note]').textContent")
    assert note.startswith("PCA: ")


def test_the_tab_key_reaches_every_tool(open_page):
    page = open_page()
    expected = {"theme", "plot", "svg", "copy", "summary"}
    reached = set()
    for _ in range(60):
        page.press("Tab")
        reached |= set(
            page.run(
                "[document.activeElement.tagName.toLowerCase(),"
                " ...document.activeElement.classList]"
            )
        )
    assert expected <= reached


def _channels(text):
    return [float(x) for x in text[text.index("(") + 1 : -1].split(",")[:3]]


def _luminance(text):
    """Relative luminance of "rgb(r, g, b)" (WCAG 2.1)."""
    parts = np.array(_channels(text)) / 255
    parts = np.where(
        parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4
    )
    return float(parts @ [0.2126, 0.7152, 0.0722])


def _contrast(one, other):
    light, dark = sorted([_luminance(one), _luminance(other)], reverse=True)
    return (light + 0.05) / (dark + 0.05)
