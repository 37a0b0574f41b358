"""The commands of docs/api.md show the docstrings."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "moco_tf"


def words(tool):
    """The words after `python -m TOOL` of the page's command."""
    text = (ROOT / "docs" / "api.md").read_text()
    return shlex.split(re.search(rf"python -m {tool} (.*)", text)[1])


@pytest.fixture(name="module")
def _module(tmp_path):
    """A package of one module without imports."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "squares.py").write_text(
        "def area(side):\n"
        '    """Measures a square.\n\n'
        "    Args:\n"
        '      side: positive float, in pixels.\n    """\n'
    )
    return folder / "squares.py"


def test_the_module_that_is_shown_is_there():
    (name,) = words("pydoc")
    assert (ROOT / f"{name.replace('.', '/')}.py").is_file()


def test_the_patterns_take_every_module():
    patterns = [word for word in words("pdoc") if "moco_tf/" in word]
    taken = {path for pattern in patterns for path in ROOT.glob(pattern)}
    taken |= {
        path
        for init in taken
        if init.name == "__init__.py"
        for path in init.parent.rglob("*.py")
    }
    beside = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}
    assert taken == set(PACKAGE.rglob("*.py")) - beside


def test_arguments_are_a_list_on_the_page_of_a_module(module, tmp_path):
    flags = [word for word in words("pdoc") if "moco_tf/" not in word]
    flags = [word.replace("build/api", str(tmp_path)) for word in flags]
    command = [sys.executable, "-m", "pdoc", *flags, str(module)]
    subprocess.run(command, check=True, cwd=tmp_path)
    page = (tmp_path / "shapes" / "squares.html").read_text()
    assert "Measures a square." in page
    assert "<li><strong>side:</strong>  positive float, in pixels.</li>" in page
