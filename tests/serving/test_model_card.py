import json

import pytest

from moco_tf import state_files
from moco_tf.evaluation import frozen
from moco_tf.monitoring import metrics_csv
from moco_tf.serving import model_card, signatures
from tests import shallow
from tests.evaluation import small_encoder
from tests.serving import plain_served

_network = shallow.fixture((1, 1, 1, 1))
LINEAR = {
    "way": "cached",
    "images": 10,
    "top1": 0.5,
    "top1_low": 0.2366,
    "top1_high": 0.7634,
}


@pytest.fixture(name="workdir", scope="module")
def _workdir(tmp_path_factory):
    workdir = small_encoder.write(tmp_path_factory.mktemp("run"))
    meta = workdir / "checkpoints" / "step-000000005" / "meta.json"
    meta.write_text(json.dumps({"step": 5, "epoch": 0.5}))
    saved = state_files.read_json(workdir / "config.json")
    state_files.write_json(
        workdir / "config.json", saved | {"data_fingerprint": "12ab"}
    )
    metrics = metrics_csv.MetricsFile(workdir / "metrics.csv")
    for step, knn in ((2, 0.25), (4, 0.375), (5, None), (6, 0.75)):
        row = {"step": step, "epoch": 1, "loss": 1.0}
        if knn is not None:
            row |= {"knn_backbone": knn, "knn_projection": knn / 2}
        metrics.append(row)
    metrics.close()
    return workdir


@pytest.fixture(name="encoder", scope="module")
def _encoder(workdir):
    return frozen.open_frozen(workdir)


@pytest.fixture(name="described", scope="module")
def _described():
    return signatures.describe(plain_served.make().signatures())


def test_a_card_says_what_is_known(encoder, described, workdir):
    card = model_card.describe(
        encoder, "mine", 3, described, "CC0", str(workdir), LINEAR, "folder:x"
    )
    assert (card["name"], card["version"]) == ("mine", 3)
    assert card["licence"] == "CC0"
    assert card["encoder"]["identity"] == encoder.identity
    assert (card["encoder"]["step"], card["encoder"]["epoch"]) == (5, 0.5)
    assert card["data"] == {
        "source": "shapes:train",
        "fingerprint": "12ab",
        "images_per_epoch": 10 * encoder.config.train.batch_size,
    }
    assert card["preprocessing"]["views"] == encoder.config.data.views
    assert card["preprocessing"]["image_size"] == 16
    assert card["config"] == encoder.config.to_dict()
    assert card["keras_file"] == "encoder.keras"


def test_the_newest_knn_that_the_checkpoint_has_seen_is_given(
    encoder, described, workdir
):
    card = model_card.describe(
        encoder, "mine", 1, described, workdir=str(workdir), linear=LINEAR
    )
    knn = card["metrics"]["knn"]
    assert (knn["step"], knn["backbone"]) == (4, 0.375)
    text = model_card.readme(card)
    assert "37.50 % top-1 after 4 steps" in text
    assert "top-1 50.00 % (95 %: 23.66 to 76.34)  of 10 images" in text


def test_what_is_not_known_is_said(encoder, described):
    encoder = encoder._replace(title="a run")
    card = model_card.describe(
        encoder, "mine", 1, described, keras_note="It holds a layer of ours."
    )
    assert card["licence"] == "unspecified"
    assert card["metrics"] == {}
    assert card["data"]["images_per_epoch"] is None
    text = model_card.readme(card)
    assert "Unspecified: who exported this did not say" in text
    assert "None were measured." in text
    assert "| images an epoch | not noted |" in text
    assert "There is no .keras file. It holds a layer of ours." in text
    assert "encoder.keras" not in text


def test_the_files_are_written(encoder, described, tmp_path):
    card = model_card.describe(encoder, "mine", 1, described)
    model_card.write(tmp_path, card)
    written = state_files.read_json(tmp_path / "model_card.json")
    assert written == json.loads(json.dumps(card))
    assert (tmp_path / "README.md").read_text().startswith("# mine, version 1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "model_card.json",
        "signatures.txt",
    ]


def test_signatures_are_listed_with_their_forms(described):
    lines = signatures.text(described).splitlines()
    assert lines[0] == "serving_default"
    forms = [line[:43].split(None, 1 + line.count("->")) for line in lines]
    forms = [[*form[:-1], form[-1].strip()] for form in forms if len(form) > 1]
    assert forms[:4] == [
        ["image_bytes", "string [n]"],
        ["->", "features", "float32 [n, 3]"],
        ["->", "normalised", "float32 [n, 3]"],
        ["->", "valid", "bool [n]"],
    ]
    assert ["images", "uint8 [n, H, W, 3]"] in forms
    assert ["images", "float32 [n, 8, 8, 3]"] in forms
    assert ["->", "probabilities", "float32 [n, 3]"] in forms


@pytest.mark.parametrize(
    "name",
    ["a|b", "`a`", "a`|`b", "two\nlines", "<i>", "*a*", "[a](b)", "\udcff"],
)
def test_a_source_of_any_name_is_one_cell_of_the_table(
    name, encoder, described, tmp_path
):
    card = model_card.describe(encoder, "mine", 1, described, bank=name)
    card["data"]["source"] = f"folder:/{name}"
    model_card.write(tmp_path, card)
    text = (tmp_path / "README.md").read_text("utf-8")
    (row,) = [x for x in text.splitlines() if x.startswith("| data |")]
    cells = row.replace(r"\|", "").split("|")
    assert len(cells) == 4
    shown = cells[2].strip()
    assert shown[0] == shown[-1] == "`"
    assert state_files.read_json(tmp_path / "model_card.json") == json.loads(
        json.dumps(card)
    )
