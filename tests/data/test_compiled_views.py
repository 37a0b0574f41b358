"""The compiled kernel: what it is kept in, and what happens without it."""

import pathlib
import stat
import sys

import numba
import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import augmentation, compiled_views, views
from tests import source_imports


def _new():
    """A function of Numba that nothing was compiled of yet."""

    @numba.njit
    def double(x):
        return 2 * x

    return double


def _compiled():
    return compiled_views.compiled(_new(), (numba.int64,), "kernel")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "moco_tf" / "kernel"


def _kept(folder):
    return [path for path in folder.rglob("*.nb?") if path.is_file()]


def test_a_kernel_is_compiled_once_and_says_so(cache, capsys):
    assert _compiled()(21) == 42
    assert "compiling the views (once for this machine)" in (
        capsys.readouterr().err
    )
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    kept = _kept(cache)
    assert {path.suffix for path in kept} == {".nbi", ".nbc"}
    assert _compiled()(21) == 42
    assert capsys.readouterr().err == ""
    assert _kept(cache) == kept


def test_a_compiled_kernel_takes_no_other_types(cache):
    with pytest.raises(TypeError, match="No matching definition"):
        _compiled()("text")


@pytest.mark.parametrize("damage", [b"", b"not a pickle", b"\x80\x04."])
def test_a_damaged_cache_is_made_anew(cache, capsys, damage):
    _compiled()
    for path in _kept(cache):
        path.write_bytes(damage)
    assert _compiled()(4) == 8
    assert "made anew" in capsys.readouterr().err
    assert _compiled()(4) == 8
    assert capsys.readouterr().err == ""


def test_what_others_may_write_is_not_read(cache, capsys):
    _compiled()
    cache.chmod(0o777)
    capsys.readouterr()
    assert _compiled()(3) == 6
    assert "cannot be written to" in capsys.readouterr().err


def test_without_a_folder_for_caches_it_is_compiled_each_time(cache, capsys):
    cache.parent.parent.write_text("a file stands where folders would be")
    for _ in range(2):
        assert _compiled()(3) == 6
        assert "not kept" in capsys.readouterr().err


def test_the_settings_of_numba_are_left_as_they_were(cache):
    before = numba.config.CACHE_DIR
    _compiled()
    assert numba.config.CACHE_DIR == before


def test_the_kernel_follows_from_the_sources_that_name_its_folder():
    folder = pathlib.Path(compiled_views.__file__).parent
    kernels = [name for name in compiled_views._SOURCES if "kernel" in name]
    assert len(kernels) == 2
    imported = set()
    for name in kernels:
        imported |= {*source_imports.dotted_imports(folder / name)}
    used = {x.split(".")[2] for x in imported if x.startswith("moco_tf.data.")}
    assert {f"{name}.py" for name in used} <= set(compiled_views._SOURCES)


@pytest.fixture
def without_numba(monkeypatch):
    for function in (compiled_views.why_not, compiled_views.is_there):
        function.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    yield
    for function in (compiled_views.why_not, compiled_views.is_there):
        function.cache_clear()


def _stage(name, augment_on="host"):
    return augmentation.ViewStage(
        parts=views.RECIPES[name].both,
        size=8,
        names=augmentation.VIEW_NAMES,
        augment_on=augment_on,
    )


def test_without_numba_changed_colours_are_refused(without_numba):
    with pytest.raises(
        ValueError, match="so Numba must be installed"
    ) as caught:
        _stage("v2").check()
    assert "pip install numba" in str(caught.value)
    assert "config.data.augment_on=graph" in str(caught.value)
    _stage("v2", "graph").check()


def test_without_numba_crops_are_tensorflows(without_numba, capsys):
    image = tf.constant(
        np.random.default_rng(0).integers(0, 256, [12, 9, 3], np.uint8)
    )
    stage = _stage("cmc")
    stage.check()
    assert not stage.is_compiled
    view = views.RECIPES["v2"].evaluate_on_host(image, 8)
    np.testing.assert_array_equal(view, views.RECIPES["v2"].evaluate(image, 8))
    assert capsys.readouterr().err.count("crops are made by TensorFlow") == 1
