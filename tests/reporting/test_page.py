import html.parser
import json
import shutil

import pytest

from moco_tf.methods import table
from moco_tf.reporting import page
from tests import shallow
from tests.evaluation import small_encoder
from tests.reporting import small_report

_network = shallow.fixture()
HOSTILE = "<img src=x onerror=alert(1)>"
PATH = "é中" + "long-" * 30


class _Page(html.parser.HTMLParser):
    """What a browser makes of a page: its elements, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self._within = [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._within.append(tag)

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._within.pop()

    def handle_data(self, data):
        if not self._within:
            self.words.append(data)


def _point_at(root):
    """Makes the run in root/workdir one of the images in root."""
    path = root / "workdir" / "config.json"
    saved = json.loads(path.read_text("utf-8"))
    saved["config"]["data"]["source"] = f"folder:{root / 'train'}"
    saved["config"]["knn"]["query"] = f"folder:{root / 'test'}"
    saved["config"]["train"]["batch_size"] = 8
    path.write_text(json.dumps(saved), "utf-8")


@pytest.fixture(name="workdir", scope="module")
def _workdir(tmp_path_factory):
    """A run with hostile class names, on a long path that is not ASCII."""
    root = tmp_path_factory.mktemp("pages") / PATH
    root.mkdir()
    workdir = small_encoder.write(root)
    for part in ("train", "test"):
        (root / part / "dark").rename(root / part / HOSTILE)
    _point_at(root)
    rows = [small_report.row(epoch, alignment=0.5) for epoch in (1, 2)]
    small_report.write_rows(workdir, rows)
    return workdir


@pytest.fixture(name="page", scope="module")
def _page(workdir):
    path = page.write([str(workdir)], images=10)
    assert path == workdir / "report.html"
    return _Page(path.read_text("utf-8"))


def _render(*workdirs, images=0):
    runs = page.read_runs([str(workdir) for workdir in workdirs])
    return _Page(page.render(runs, images=images))


def test_names_of_classes_are_text(page):
    assert f"{HOSTILE} 6" in page.text  # in the map's legend, with its count
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert attributes["src"].startswith("data:image/webp;base64,")


def test_nothing_is_fetched(page):
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base")
        for name in ("src", "href", "data", "action"):
            value = attributes.get(name, "#")
            assert value.startswith(("data:", "#")), (tag, value)
    policy = [a for _, a in page.elements if "http-equiv" in a]
    assert policy[0]["content"].startswith("default-src 'none'")


def test_all_parts_are_there(page):
    headings = ("Overview", "Curves", "Map of the test set", "Speed", "Set-up")
    for heading in (*headings, "Nearest neighbours", "What training compares"):
        assert heading in page.text
    assert "Not shown" not in page.text


def test_every_picture_has_words(page):
    pictures = [a for tag, a in page.elements if tag == "img"]
    assert len(pictures) > 20
    assert all(picture["alt"] for picture in pictures)


def test_identifiers_are_unique(page):
    names = [a["id"] for _, a in page.elements if "id" in a]
    assert len(names) == len(set(names))


def test_links_lead_somewhere(page):
    names = {a["id"] for _, a in page.elements if "id" in a}
    links = [a["href"] for tag, a in page.elements if tag == "a"]
    assert len(links) > 5
    assert {link.removeprefix("#") for link in links} <= names


def test_the_path_is_not_cut(page, workdir):
    assert str(workdir) in page.text


def test_a_run_without_a_checkpoint_shows_its_curves(tmp_path):
    rows = [small_report.loss_and_knn(1)]
    workdir = small_report.write(tmp_path / "run", rows)
    page = _render(workdir, images=5)
    assert "This run has no checkpoint yet." in page.text
    assert "'/nowhere/train', which is missing" in page.text
    assert "kNN accuracy" in page.text


def test_a_run_that_has_just_begun_has_a_page(tmp_path):
    page = _render(small_report.write(tmp_path / "run"))
    assert "logged nothing yet" in page.text
    assert "Curves" not in page.text


def test_images_that_have_gone_leave_the_curves(workdir, tmp_path):
    root = tmp_path / "moved"
    shutil.copytree(workdir.parent, root)
    shutil.rmtree(root / "test")
    _point_at(root)
    page = _render(root / "workdir", images=5)
    assert page.text.count("which is missing") == 2  # map and neighbours
    assert "What training compares" in page.text


def test_images_without_labels_have_one_colour(workdir, tmp_path):
    root = tmp_path / "flat"
    shutil.copytree(workdir.parent, root)
    images = sorted((root / "test" / "light").glob("*.png"))
    for path in images:
        path.rename(root / "test" / path.name)
    shutil.rmtree(root / "test" / HOSTILE)
    shutil.rmtree(root / "test" / "light")
    _point_at(root)
    page = _render(root / "workdir", images=9)
    assert "The test set has no labels" in page.text
    assert "Not shown" not in page.text
    assert "✓" not in page.text.partition("Nearest neighbours")[2]


def test_other_images_than_the_run_had_are_a_warning(workdir, tmp_path):
    small_encoder.write_images(tmp_path, "train", (300, 300))
    run = small_report.write(
        tmp_path / "run",
        fingerprint="0123",
        data__source=f"folder:{tmp_path / 'train'}",
    )
    page = _render(run, images=5)
    assert "The images have changed since the run started" in page.text


def test_runs_stand_side_by_side(tmp_path):
    first = small_report.write(tmp_path / "one", [small_report.loss_and_knn(1)])
    second = small_report.write(
        tmp_path / "two", [small_report.loss_and_knn(1)], moco__momentum=0.5
    )
    text = _render(first, second).text
    assert "Comparison of 2 runs" in text
    assert "field one two moco.momentum 0.99 0.5" in text
    assert "one: mean of an epoch" in text and "two: backbone" in text


def test_equal_views_are_shown_once(workdir, tmp_path):
    again = tmp_path / "again"
    (tmp_path / "other").mkdir()
    for folder in (again, tmp_path / "other"):
        folder.mkdir(exist_ok=True)
        shutil.copy(workdir / "config.json", folder)
    path = tmp_path / "other" / "config.json"
    saved = json.loads(path.read_text("utf-8"))
    saved["config"]["seed"] += 1
    path.write_text(json.dumps(saved), "utf-8")
    page = _render(again, tmp_path / "other", images=1)
    assert "The same as those of" not in page.text
    page = _render(again, workdir, images=1)
    assert "The same as those of again" in page.text


def test_equal_configurations_are_said_to_be(tmp_path):
    paths = [small_report.write(tmp_path / name) for name in "ab"]
    assert "All fields of the configurations are the same" in (
        _render(*paths).text
    )


def test_the_published_curve_stands_beside_cifar10_alone(tmp_path):
    rows = [small_report.loss_and_knn(1)]
    other = small_report.write(tmp_path / "other", rows)
    assert "published, 200 epochs" not in _render(other).text
    cifar10 = small_report.write(
        tmp_path / "cifar10", rows, data__source="folder:/nowhere/cifar10"
    )
    text = _render(cifar10).text
    assert "The published curve is of facebookresearch/moco" in text
    assert text.count("published, 200 epochs") == 2  # loss and kNN


@pytest.mark.parametrize("name", table.METHODS)
def test_a_report_of_any_method_says_nothing_of_other_methods(tmp_path, name):
    measured = table.method_class(name).METRICS
    figures = {} if "instance_top1" in measured else {"instance_top1": None}
    recipe = table.METHODS[name].configs[-1]
    source = {"data__source": "folder:/nowhere/cifar10"}
    rows = [small_report.loss_and_knn(epoch) | figures for epoch in (1, 2)]
    small_report.write(tmp_path, rows, recipe, **source)
    words = _render(tmp_path).text.lower()
    assert ("published" in words) == (name == "moco")
    assert ("while a queue holds noise" in words) == (name == "moco")


def test_another_queue_has_another_loss_to_compare(tmp_path):
    workdir = small_report.write(
        tmp_path / "run",
        [small_report.loss_and_knn(1)],
        data__source="folder:/nowhere/cifar10",
        moco__queue_size=1024,
    )
    assert _render(workdir).text.count("published, 200 epochs") == 1  # of kNN


@pytest.mark.parametrize(
    "path, images, message",
    [
        ("report.txt", 0, "must name a file that ends in .html"),
        ("", -1, "0 leaves out all pictures. Received images=-1"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(
    tmp_path, path, images, message
):
    workdir = small_report.write(tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        page.write([str(workdir)], path, images=images)


def test_a_name_that_is_no_text_is_written_all_the_same(tmp_path):
    workdir = small_report.write(tmp_path / "run\udcff")
    path = page.write([str(workdir)], str(tmp_path / "r.html"), images=0)
    assert "run?" in path.read_text("utf-8")
