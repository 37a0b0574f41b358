"""`moco-tf compare`: encoders of every kind, side by side on tiny sets."""

import csv
import json
from unittest import mock

import numpy as np
import pytest

import moco_tf
from moco_tf import benchmark, comparing, encoders
from moco_tf.cli import main as cli
from moco_tf.evaluation import side_by_side
from moco_tf.weights import exporting
from tests import shallow, small_run
from tests.evaluation import plain_frozen, planted, small_encoder

_network = shallow.fixture((1, 1, 1, 1))
V1 = "@views=v1"


@pytest.fixture(name="place", scope="module")
def _place(tmp_path_factory):
    """A folder with a run, labelled images, and models of known features."""
    root = tmp_path_factory.mktemp("compare")
    workdir = small_encoder.write(root, steps=(5, 6))
    exporting.export_weights(workdir, "5", root / "tv.pth", "torchvision")
    for kind in ("bright", "blind"):
        planted.save(root, kind)
    planted.save_signature(root, "bright")
    with mock.patch.object(benchmark, "_CEILING_SECONDS", 0.01):
        yield root


@pytest.fixture(name="result", scope="module")
def _result(place):
    """One comparison of encoders of every kind."""
    names = [
        f"{place / 'bright.keras'}{V1}",
        f"{place / 'bright.keras'}{V1}",
        f"{place / 'blind.keras'}{V1}",
        f"{place / 'bright-saved'}{V1},image_size=16",
        f"{place / 'workdir'}@5",
        f"{place / 'tv.pth'}@views=v1,image_size=16",
        "untrained",
        "pixels",
    ]
    return comparing.compare(
        names,
        f"folder:{place / 'train'}",
        output=place / "out",
        k=3,
        rounds=1,
    )


def verdict(entry, measure="knn"):
    return entry["difference"][measure]["verdict"]


def test_an_encoder_differs_from_itself_by_exactly_nothing(result):
    for measure in ("knn", "probe"):
        change = result["encoders"][1]["difference"][measure]
        assert [change[x] for x in ("mean", "low", "high")] == [0, 0, 0]
        assert change["verdict"] == "no difference"
    assert result["agreement"][0][1] == 1.0


def test_features_that_see_the_classes_are_better_than_blind_ones(result):
    bright, _, blind, *_ = result["encoders"]
    for measure in ("knn", "probe"):
        assert bright[measure]["top1"] == 1.0
        assert blind[measure]["top1"] < 0.8
        assert verdict(blind, measure) == "worse"
        change = blind["difference"][measure]
        assert change["low"] <= change["mean"] <= change["high"] < 0
        assert change["worse"] == round(-40 * change["mean"])
    assert result["agreement"][0][2] < 0.5
    assert result["agreement_by_chance"] == pytest.approx(3 / 39)


def test_a_saved_model_of_the_same_weights_has_the_same_neighbours(result):
    assert result["encoders"][3]["kind"] == "model"
    assert result["agreement"][0][3] == 1.0
    assert verdict(result["encoders"][3]) == "no difference"


def test_a_file_of_torchvision_is_the_run_that_it_was_written_from(result):
    run, file = result["encoders"][4:6]
    assert (run["kind"], file["kind"]) == ("run", "weights")
    assert run["identity"] == file["identity"]
    assert result["agreement"][4][5] == 1.0
    assert run["parameters"] == file["parameters"] > 1000


def test_sizes_and_preprocessing_are_of_each_encoder(result):
    model, run, pixels = (result["encoders"][i] for i in (0, 4, 7))
    assert (model["parameters"], model["bytes"]) == (108, 432)
    assert model["dimension"] == 4
    assert (run["image_size"], run["views"]) == (16, "v1")
    assert pixels["dimension"] == 32 * 32 * 3
    assert pixels["images_per_second"] is None
    assert run["images_per_second"]["median"] > 0


def test_the_tables_and_the_page_hold_the_same_figures(place, result):
    saved = json.loads((place / "out" / "compare.json").read_text())
    assert saved.pop("format") == 1
    assert saved["agreement"] == result["agreement"]
    with open(place / "out" / "compare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    blind = result["encoders"][2]
    assert float(rows[2]["knn_top1"]) == blind["knn"]["top1"]
    assert rows[2]["probe_difference_verdict"] == "worse"
    page = (place / "out" / "compare.html").read_text()
    assert blind["difference"]["knn"]["words"] in page


def test_a_second_call_measures_nothing_again(place, result, monkeypatch):
    monkeypatch.setattr(side_by_side, "_measure", None)
    names = [x["given"] for x in result["encoders"]]
    spec = f"folder:{place / 'train'}"
    again = comparing.compare(names, spec, output=place / "out", k=3, rounds=0)
    for one, other in zip(result["encoders"], again["encoders"], strict=True):
        del one["images_per_second"], other["images_per_second"]
        assert one == other
    with pytest.raises(TypeError):  # another k is another measurement
        comparing.compare(names, spec, output=place / "out", k=4, rounds=0)


def test_other_queries_are_classified_by_the_bank(place, capsys):
    result = comparing.compare(
        [f"{place / 'bright.keras'}{V1}", f"{place / 'blind.keras'}{V1}"],
        output=place / "queries",
        images=f"folder:{place / 'train'}",
        query=f"folder:{place / 'test'}",
        k=5,
        rounds=0,
    )
    about = result["images"]
    assert (about["bank_images"], about["queries"]) == (40, 10)
    assert about["unreadable"] == 1
    assert result["encoders"][0]["knn"]["top1"] == 1.0
    assert "10 images" not in capsys.readouterr().out.split("query")[0]


def test_a_set_without_labels_has_neighbours_and_no_accuracy(place, tmp_path):
    greys = {f"{n:02d}.png": 10 * n for n in range(1, 21)} | {"bad.png": None}
    spec = plain_frozen.write_greys(tmp_path / "flat", greys)
    result = comparing.compare(
        [f"{place / 'bright.keras'}{V1}", "pixels", f"{place / 'workdir'}"],
        spec,
        output=tmp_path / "out",
        k=4,
        rounds=0,
    )
    assert result["images"]["queries"] == 20
    assert result["images"]["unreadable"] == 1
    assert "needs labels" in result["images"]["no_accuracy"]
    for entry in result["encoders"]:
        assert "knn" not in entry and entry["effective_rank"] >= 1
    assert result["encoders"][1]["difference"] == {}
    shares = np.array(result["agreement"])
    assert (shares == shares.T).all() and (np.diag(shares) == 1).all()
    first = result["agreement_with_first"][0]
    assert first["low"] <= first["share"] == shares[0, 1] <= first["high"]


def test_the_command_takes_words_and_the_runs_own_sets(place, capsys):
    words = ["compare", str(place / "workdir"), "untrained", "--k=5"]
    words += [f"--output={place / 'own'}", "--rounds=0", "--skip_probe"]
    assert cli.run(words) == 0
    out = capsys.readouterr().out
    assert "kNN: untrained against workdir: no difference (+0.00" in out
    assert "probe       none. It was not asked for." in out
    assert cli.run(["compare", "--help"]) == 0
    assert "compare ENCODER ENCODER" in capsys.readouterr().out


def test_python_measures_encoders_where_images_are_named(place):
    rows = moco_tf.compare(
        moco_tf.Run(place / "workdir"),
        f"{place / 'blind.keras'}{V1}",
        images=place / "train",
        output=place / "python",
        k=5,
        rounds=0,
    )
    assert [row["encoder"] for row in rows] == ["workdir", f"blind.keras{V1}"]
    assert rows[0]["knn_difference_mean"] is None
    assert rows[1]["knn_difference_verdict"] in ("worse", "no difference")


def test_weights_have_a_guessed_configuration_and_no_images():
    kinds = {"weights": "shapes:", "run": "shapes:test"}
    named = [encoders.Named(x, x, None, "", {}) for x in kinds]
    opened = []
    for bank in kinds.values():
        config = small_run.make_config("", knn__bank=bank, knn__query="")
        opened.append(plain_frozen.make_frozen()._replace(config=config))
    assert comparing._specs("", "", named, opened) == ("shapes:test", "")
    with pytest.raises(ValueError, match="know of none"):
        comparing._specs("", "", named[:1], opened[:1])


def test_a_folder_of_another_library_is_no_damaged_run(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["resnet18"]}')
    (tmp_path / "model.safetensors").touch()
    named = encoders.parse(tmp_path)
    with pytest.raises(ValueError, match="its files: model.safetensors"):
        encoders.open_encoder(named)


@pytest.mark.parametrize("count", [0, 1, 21])
def test_so_many_encoders_are_refused(count):
    with pytest.raises(ValueError, match=f"2 to 20 encoders. Received {count}"):
        comparing.compare(["pixels"] * count, "shapes", output="x")


def test_names_are_as_short_as_tells_them_apart():
    def short(*texts):
        return comparing.labels(
            [encoders.Named(t, "", "", "", {}) for t in texts]
        )

    assert short("a/b/c", "d/e") == ["c", "e"]
    assert short("a/b/c", "d/b/e", "d/b/c") == ["a/b/c", "d/b/e", "d/b/c"]
    assert short("a/c", "b/c@best", "b/c") == ["a/c", "b/c@best", "b/c"]
    assert short("a/c", "a/c", "d") == ["c", "c (2)", "d"]
    assert short("a/b/", "a/b@best", "c") == ["b", "b@best", "c"]
    assert short("/", "a/") == ["/", "a"]


def test_what_cannot_be_measured_is_refused_before_the_work(place, tmp_path):
    good = f"{place / 'bright.keras'}{V1}"
    broken = planted.model("bright")
    broken.layers[1].set_weights([np.full([3, 3, 3, 4], np.nan, np.float32)])
    broken.save(tmp_path / "broken.keras")
    torn = tmp_path / "torn.pth"
    torn.write_bytes((place / "tv.pth").read_bytes()[:5000])
    for name, words in (
        (f"{tmp_path / 'broken.keras'}{V1}", "finite features"),
        (str(torn), "torn.pth"),
        (f"{place / 'workdir'}@7", "RUN@1200|@1200"),
        (str(place / "train"), "none of these"),
    ):
        with pytest.raises(ValueError, match=words):
            comparing.compare(
                [good, name],
                f"folder:{place / 'train'}",
                output=tmp_path / "out",
                k=3,
            )
    assert not (tmp_path / "out").exists()


def test_a_damaged_outcome_is_measured_again(place, tmp_path, capsys):
    names = [f"{place / 'bright.keras'}{V1}", f"{place / 'blind.keras'}{V1}"]

    def compare():
        return comparing.compare(
            names,
            f"folder:{place / 'test'}",
            output=tmp_path,
            k=3,
            probe=False,
            rounds=0,
        )

    first = compare()
    path = next((tmp_path / "features" / "outcomes").iterdir())
    path.write_bytes(path.read_bytes()[:100])
    assert compare()["encoders"] == first["encoders"]
    assert "it is measured again" in capsys.readouterr().out
