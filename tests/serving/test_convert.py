import importlib.util
import io
import pathlib
import shutil
import sys

import numpy as np
import PIL.Image
import pytest

from moco_tf import state_files
from moco_tf.evaluation import frozen
from moco_tf.serving import comparison, convert, export
from tests import shallow
from tests.evaluation import small_encoder
from tests.serving import plain_served

_network = shallow.fixture((1, 1, 1, 1))
FORMATS = convert.FORMATS
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of views v1, v2


def need(to):
    # Not importorskip: OpenVINO reports an import to its maker.
    for name in FORMATS[to].packages:
        if importlib.util.find_spec(name) is None:
            pytest.skip(
                f"{name} is not installed (pip install -e '.[convert]')"
            )


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
    """A run of a tiny ResNet and the folder of its export's versions."""
    workdir = small_encoder.write(tmp_path_factory.mktemp("run"))
    encoder = frozen.open_frozen(workdir)
    export.export_run(encoder, workdir / "export", "encoder")
    return encoder, workdir / "export" / "encoder"


@pytest.fixture(name="paths", scope="module")
def _paths(run):
    """Converted files by format, written when a test asks for one."""

    class Paths(dict):
        def __missing__(self, to):
            need(to)
            self[to] = convert.convert_export(run[1], to)
            return self[to]

    return Paths()


@pytest.fixture(name="saved", scope="module")
def _saved(tmp_path_factory):
    """A SavedModel with a card, whose features are the mean colour."""
    folder = tmp_path_factory.mktemp("saved") / "3"
    plain_served.save(folder)
    settings = {"views": "cifar", "image_size": plain_served.SIDE}
    state_files.write_json(
        folder / "model_card.json", {"preprocessing": settings}
    )
    return folder


@pytest.fixture(name="plain")
def _plain(saved, tmp_path):
    """The same as version 3 of an export, in a folder of its own."""
    shutil.copytree(saved, tmp_path / "plain" / "model" / "3")
    return tmp_path / "plain" / "model"


def photographs(count):
    """Uint8 [count, 16, 16, 3] of scikit-learn's two, scaled by Pillow."""
    opened = [
        PIL.Image.open(io.BytesIO(contents)).convert("RGB")
        for contents in comparison.photographs()[:2]
    ]
    boxes = [(n * 50, n * 40, n * 50 + 300, n * 40 + 300) for n in range(3)]
    pixels = [
        np.asarray(photo.resize((16, 16), box=box))
        for box in boxes
        for photo in opened
    ]
    return np.stack(pixels[:count])


def normalised(pixels, mean=MEAN, std=STD):
    return ((pixels / 255.0 - mean) / std).astype(np.float32)


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("to", FORMATS)
def test_a_runtime_gives_the_features_of_the_run(to, count, run, paths):
    pixels = photographs(count)
    expected = run[0].encode(pixels)["backbone"].numpy()
    features = FORMATS[to].open(paths[to])(normalised(pixels))
    assert features.shape == (count, 32)
    assert features.dtype == np.float32
    limit = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(features, expected, rtol=0, atol=limit)


def test_onnxruntime_reports_to_nobody(paths):
    FORMATS["onnx"].open(paths["onnx"])(normalised(photographs(1)))
    opened = [
        path.resolve() for path in pathlib.Path("/proc/self/fd").iterdir()
    ]
    assert not [x for x in opened if "onnxruntime.db" in x.name]


@pytest.mark.parametrize("to", FORMATS)
def test_the_other_output_has_rows_of_length_one(to, paths):
    tensors = normalised(photographs(5))
    features = FORMATS[to].open(paths[to])(tensors)
    rows = FORMATS[to].open(paths[to], "normalised")(tensors)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(rows, features / lengths, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("to", FORMATS)
def test_mean_colours_come_out_as_computed_by_hand(to, plain):
    need(to)
    path = convert.convert_export(plain, to)
    assert path == plain.parent / f"model-3{FORMATS[to].suffix}"
    assert left(plain.parent) == ["model", path.name]
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    recipe = plain_served.RECIPE
    tensors = normalised(pixels, recipe.mean, recipe.std)
    np.testing.assert_allclose(
        FORMATS[to].open(path)(tensors),
        plain_served.features(pixels),
        rtol=1e-4,
        atol=1e-6,
    )


def test_openvino_keeps_float32_and_does_not_report(paths):
    path = paths["openvino"]
    assert left(path) == ["model.bin", "model.xml"]
    text = (path / "model.xml").read_text()
    assert 'element_type="f32"' in text
    assert 'element_type="f16"' not in text
    reporter = sys.modules["openvino.tools.ovc.telemetry_utils"].tm
    assert reporter.__name__ == "openvino.tools.ovc.telemetry_stub"


def test_the_differences_are_printed(plain, tmp_path, capfd):
    path = tmp_path / "new" / "mine.tflite"
    assert convert.convert_export(plain / "3", "tflite", path) == path
    output, errors = capfd.readouterr()
    assert "onverted" not in errors  # a table of the converter
    assert f"wrote {path}\n" in output
    assert "images float32 [n, 8, 8, 3], (RGB / 255 - mean) / std" in output
    assert "compared with the SavedModel on 5 images" in output
    for form in ("features [1]", "features [5]", "normalised [5]"):
        assert f"  {form:<16} max difference " in output
    assert left(tmp_path / "new") == ["mine.tflite"]


def test_features_are_compared_on_the_images_that_are_named(
    plain, tmp_path, capsys
):
    source = small_encoder.write_images(tmp_path, "images", (1, 2))
    (tmp_path / "images" / "light" / "9.png").write_bytes(b"not an image")
    convert.convert_export(plain, "tflite", images=source)
    output = capsys.readouterr().out
    assert "on 3 images" in output
    assert "not compared: light/9.png" in output


@pytest.mark.parametrize("factor", [1.001, np.nan])
def test_other_features_leave_nothing(factor, plain, monkeypatch):
    def open_other(path, output):
        encode = convert.open_tflite(path, output)
        return lambda images: factor * encode(images)

    other = FORMATS["tflite"]._replace(open=open_other)
    monkeypatch.setitem(FORMATS, "tflite", other)
    before = left(plain.parent)
    with pytest.raises(FloatingPointError, match=r"to 0.0001 .*\n +features"):
        convert.convert_export(plain, "tflite")
    assert left(plain.parent) == before


def test_a_conversion_that_fails_leaves_nothing(plain, monkeypatch):
    def write(folder, loaded, path):
        path.write_bytes(b"a part")
        raise OSError("no space left")

    other = FORMATS["tflite"]._replace(write=write)
    monkeypatch.setitem(FORMATS, "tflite", other)
    before = left(plain.parent)
    with pytest.raises(OSError, match="no space left"):
        convert.convert_export(plain, "tflite")
    assert left(plain.parent) == before


def test_what_is_there_is_not_replaced(plain, tmp_path):
    path = tmp_path / "taken.tflite"
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"taken.tflite, which is there"):
        convert.convert_export(plain, "tflite", path)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize(
    "to, package",
    [(to, name) for to, form in FORMATS.items() for name in form.packages],
)
def test_a_missing_package_is_reported_before_any_work(
    to, package, monkeypatch
):
    need(to)
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"without {package}\. .*pip install -e '\.\[convert\]'"
    with pytest.raises(ValueError, match=message):
        convert.convert_export("/not/there", to)


def test_an_unknown_format_is_reported_with_the_nearest(plain):
    with pytest.raises(ValueError, match=r"'onx'. Did you mean 'onnx'\?"):
        convert.convert_export(plain, "onx")


def test_a_folder_without_a_model_is_reported(tmp_path):
    with pytest.raises(ValueError, match="Make one with moco-tf export"):
        convert.convert_export(tmp_path, "tflite")


def test_a_model_without_a_card_is_reported(plain):
    (plain / "3" / "model_card.json").unlink()
    message = r"signatures .*embed_tensors.* without the card\. Make one"
    with pytest.raises(ValueError, match=message):
        convert.convert_export(plain, "tflite")


def test_images_of_which_none_is_read_are_reported(plain, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"not an image")
    source = f"folder:{tmp_path / 'images'}"
    with pytest.raises(ValueError, match="a source of which none was read"):
        convert.convert_export(plain, "tflite", images=source)
    assert left(plain.parent) == ["model"]


def test_the_newest_version_is_converted(plain):
    shutil.copytree(plain / "3", plain / "10")
    path = convert.convert_export(plain, "tflite")
    assert path.name == "model-10.tflite"
