import csv

import numpy as np
import pytest
from PIL import Image

from moco_tf.evaluation import embeddings, neighbours
from tests.evaluation import plain_frozen

GREEN, RED = (26, 150, 65), (215, 25, 28)


def _embeddings(
    rows, labels=None, class_names=None, source="s1", encoder="ab" * 32
):
    rows = np.asarray(rows, np.float32)
    return embeddings.Embeddings(
        {"backbone": rows},
        np.arange(len(rows)),
        [f"{source}-{place}.png" for place in range(len(rows))],
        None if labels is None else np.asarray(labels),
        class_names,
        {
            "encoder": encoder,
            "title": f"run-{encoder[:2]}",
            "source": f"folder:/{source}",
            "fingerprint": source,
            "layers": ["backbone"],
        },
    )


# Angles 0, 90, 45 and 180 degrees.
BANK = [[2.0, 0.0], [0.0, 1.0], [3.0, 3.0], [-1.0, 0.0]]


def test_neighbours_are_the_largest_cosines_nearest_first():
    bank = _embeddings(BANK)
    query = _embeddings([[5.0, 0.0], [-2.0, 0.1]], source="s2")
    result = neighbours.search(bank, query, 3)
    assert result.index.tolist() == [[0, 2, 1], [3, 1, 2]]
    half = np.sqrt(0.5)
    np.testing.assert_allclose(result.cosine[0], [1, half, 0], atol=1e-6)
    norm = np.sqrt(4.01)
    expected = [2 / norm, 0.1 / norm, -1.9 * half / norm]
    np.testing.assert_allclose(result.cosine[1], expected, atol=1e-6)
    assert result.query.tolist() == [0, 1]
    assert result.same is None


def test_no_image_is_its_own_neighbour():
    file = _embeddings(BANK)
    result = neighbours.search(file, file, 3)
    assert result.index.tolist() == (
        [[2, 1, 3], [2, 0, 3], [0, 1, 3], [1, 2, 0]]
    )


def test_more_duplicates_than_neighbours_are_no_trouble():
    file = _embeddings(np.ones([5, 2]))
    result = neighbours.search(file, file, 2)
    # Of equals the first rows, without the query itself.
    assert result.index.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]


def test_an_image_that_the_bank_lacks_has_all_its_neighbours():
    file = _embeddings(BANK)
    # The bank has lost the image of place 1 since.
    keep = [0, 2, 3]
    bank = file._replace(
        rows={"backbone": file.rows["backbone"][keep]},
        index=np.array(keep),
    )
    result = neighbours.search(bank, file, 2)
    assert result.index.tolist() == [[1, 2], [1, 0], [0, 2], [1, 0]]


def test_queries_are_searched_in_the_order_asked_for():
    file = _embeddings(BANK)
    result = neighbours.search(file, file, 1, query_rows=np.array([3, 0]))
    assert result.query.tolist() == [3, 0]
    assert result.index.tolist() == [[1], [2]]


def test_classes_are_compared_by_name():
    bank = _embeddings(BANK, [0, 1, 2, 1], ["ant", "bee", "cat"])
    query = _embeddings([[1.0, 0.1], [-1, 0]], [1, 0], ["bee", "cat"], "s2")
    result = neighbours.search(bank, query, 2)
    # Query 0, a cat: ant, cat. Query 1, a bee: bee, bee.
    assert result.index.tolist() == [[0, 2], [3, 1]]
    assert result.same.tolist() == [[False, True], [True, True]]
    numbered = query._replace(class_names=None)
    assert neighbours.search(bank, numbered, 2).same is None


@pytest.mark.parametrize(
    ("query", "k", "message"),
    [
        (_embeddings(np.ones([2, 3]), source="s2"), 1, "Received 2 and 3"),
        (
            _embeddings(BANK, source="s2", encoder="cd" * 32),
            1,
            r"Received abababababababab \(run-ab\) and cdcdcdcdcdcdcdcd \(run",
        ),
        (_embeddings(BANK, source="s2"), 5, "Received k=5, 4 images"),
        (_embeddings(BANK), 4, "Received k=4, 3 images"),
        (_embeddings(BANK), 0, "Received k=0, 3 images"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_both_values(query, k, message):
    with pytest.raises(ValueError, match=message):
        neighbours.search(_embeddings(BANK), query, k)


def test_features_that_a_file_lacks_are_refused():
    file = _embeddings(BANK)
    with pytest.raises(ValueError, match="'projection'; it holds backbone"):
        neighbours.search(file, file, 1, "projection")


@pytest.fixture(name="images")
def _images(tmp_path):
    """Folders of greys: the darker are cats in both, but for one."""
    bank = {"cat/0.png": 0, "cat/1.png": 60, "dog/2.png": 255, "dog/3.png": 40}
    query = {"cat/q.png": 50, "dog/$x$.png": 250}
    encoder = plain_frozen.make_frozen()
    for name, greys in (("bank", bank), ("query", query)):
        spec = plain_frozen.write_greys(tmp_path / name, greys)
        embeddings.embed_source(encoder, spec, tmp_path / f"{name}.npz")
        file = embeddings.load(tmp_path / f"{name}.npz")
        embeddings.write(tmp_path / f"{name}.parquet", file)
    return tmp_path


def _table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kinds", [(".npz", ".parquet"), (".parquet", ".npz")])
def test_results_are_written_with_names_and_classes(images, kinds, capsys):
    neighbours.search_files(
        images / f"bank{kinds[0]}",
        images / f"query{kinds[1]}",
        2,
        images / "out" / "result.csv",
    )
    table = _table(images / "out" / "result.csv")
    # Of (50, 205): (60, 195) at an angle of 3.4 degrees, (40, 215) at 3.2.
    a, b = np.array([50, 205]), np.array([40, 215])
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert list(table[0].items()) == [
        ("query", "cat/q.png"),
        ("rank", "1"),
        ("neighbour", "dog/3.png"),
        ("cosine", f"{cosine:.6f}"),
        ("query_class", "cat"),
        ("neighbour_class", "dog"),
    ]
    assert [(row["query"], row["neighbour"]) for row in table[1:]] == [
        ("cat/q.png", "cat/1.png"),
        ("dog/$x$.png", "dog/2.png"),
        ("dog/$x$.png", "cat/1.png"),
    ]
    printed = capsys.readouterr().out
    assert "of the nearest, 50.00 % are of the query's class" in printed


def test_queries_are_chosen_by_name(images):
    neighbours.search_files(
        images / "bank.npz",
        images / "bank.npz",
        1,
        images / "result.csv",
        queries=["dog/3.png"],
    )
    (row,) = _table(images / "result.csv")
    assert (row["query"], row["neighbour"]) == ("dog/3.png", "cat/1.png")
    with pytest.raises(
        ValueError, match="Received 9.png; its 4 names begin wi"
    ):
        neighbours.search_files(
            images / "bank.npz",
            images / "bank.npz",
            1,
            images / "other.csv",
            queries=["9.png"],
        )
    assert not (images / "other.csv").exists()


def test_the_grid_shows_queries_neighbours_and_their_classes(images):
    # The damaged file keeps its size, or the source would be another one.
    damaged = images / "bank" / "cat" / "1.png"
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    neighbours.search_files(
        images / "bank.npz",
        images / "query.npz",
        2,
        images / "result.csv",
        images / "grid.png",
    )
    grid = Image.open(images / "grid.png").convert("RGB")
    # Cells of 110 x 130 pixels: 96 of image, and 16 after the first column.
    assert grid.size == (346, 260)
    middles = [
        [grid.getpixel((x, y)) for x in (55, 181, 291)] for y in (78, 208)
    ]
    greys = [[50, 40, 160], [250, 255, 160]]  # 160: cannot be read
    assert middles == [[(x,) * 3 for x in row] for row in greys]
    # The frames, just above the images; none around a query.
    frames = [
        [grid.getpixel((x, y)) for x in (55, 181, 291)] for y in (28, 158)
    ]
    assert frames == [
        [(255, 255, 255), RED, GREEN],
        [(255, 255, 255), GREEN, RED],
    ]


def test_a_grid_shows_so_many_queries_spread_over_the_file(images):
    neighbours.search_files(
        images / "bank.npz",
        images / "bank.npz",
        1,
        images / "result.csv",
        images / "grid.png",
        shown=2,
    )
    grid = Image.open(images / "grid.png").convert("RGB")
    first, last = (grid.getpixel((55, y))[0] for y in (78, 208))
    assert (first, last) == (0, 40)
    assert len(_table(images / "result.csv")) == 4
    with pytest.raises(ValueError, match="shown=0"):
        neighbours.search_files(
            images / "bank.npz",
            images / "bank.npz",
            1,
            images / "result.csv",
            images / "grid.png",
            shown=0,
        )


def test_images_without_labels_have_no_frame_and_no_class(tmp_path):
    spec = plain_frozen.write_greys(tmp_path / "i", {"a.png": 9, "b.png": 90})
    path = tmp_path / "a.npz"
    embeddings.embed_source(plain_frozen.make_frozen(), spec, path)
    neighbours.search_files(
        path, path, 1, tmp_path / "a.csv", tmp_path / "a.png"
    )
    header = (tmp_path / "a.csv").read_text().splitlines()[0]
    assert header == "query,rank,neighbour,cosine"
    grid = Image.open(tmp_path / "a.png").convert("RGB")
    assert grid.getpixel((181, 28)) == (255, 255, 255)


def test_a_grid_of_images_that_have_changed_is_refused(images):
    (images / "bank" / "cat" / "new.png").write_bytes(b"")
    with pytest.raises(ValueError, match="have changed: its fingerprint is"):
        neighbours.search_files(
            images / "bank.npz",
            images / "query.npz",
            1,
            images / "result.csv",
            images / "grid.png",
        )
    assert not (images / "result.csv").exists()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("a.png", ["a.png"]),
        ("a.png,b.png", ["a.png", "b.png"]),
        ("a,b.png", ["a,b.png"]),
        ("a,,b.png,a.png", ["a,,b.png", "a.png"]),
        (",", [","]),
        ("\udcff.png", ["?.png"]),
    ],
)
def test_queries_are_named_with_commas_that_names_may_hold(
    typed, expected, tmp_path, capsys
):
    names = ["a.png", "b.png", "a,b.png", "a,,b.png", ",", "\udcff.png"]
    file = _embeddings([[n, 1.0] for n in range(6)])._replace(names=names)
    embeddings.write(tmp_path / "e.npz", file)
    result = neighbours.search_files(
        tmp_path / "e.npz",
        tmp_path / "e.npz",
        k=1,
        csv_path=tmp_path / "near.csv",
        queries=(typed,),
    )
    stored = embeddings.load(tmp_path / "e.npz").names
    assert [stored[row] for row in result.query] == expected
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"wrote       {tmp_path / 'near.csv'}"
