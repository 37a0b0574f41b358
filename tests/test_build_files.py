import build_files
import pytest


@pytest.fixture
def tree(tmp_path):
    """A package a with a/one.py, a/b/two.py and a test."""
    files = {
        "moco_tf/__init__.py": "",
        "moco_tf/one.py": "import os\nimport numpy as np\n",
        "moco_tf/sub/__init__.py": "",
        "moco_tf/sub/two.py": (
            "from absl import flags\n"
            "from moco_tf import one\n"
            "from moco_tf.sub import three\n"
            "def f():\n    from moco_tf.one import name\n"
        ),
        "moco_tf/sub/three.py": "import moco_tf\n",
        "tests/test_one.py": "import pytest\nfrom moco_tf import one\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_every_build_file_matches_the_imports():
    names = [str(p.relative_to(build_files.ROOT)) for p in build_files.stale()]
    assert names == [], "run: python tests/build_files.py --write"


def test_deps_are_the_imports(tree):
    path = tree / "moco_tf/sub/two.py"
    assert build_files.target(path, tree) == (
        "py_library",
        "two",
        ["//moco_tf:one", ":three", "@pypi//absl_py"],
    )
    path = tree / "moco_tf/sub/three.py"
    assert build_files.target(path, tree)[2] == ["//moco_tf"]


def test_the_standard_library_is_no_dep(tree):
    path = tree / "moco_tf/one.py"
    assert build_files.target(path, tree)[2] == ["@pypi//numpy"]


def test_a_test_is_a_py_test(tree):
    text = build_files.content(tree / "tests", tree)
    assert 'py_test(\n    name = "test_one",' in text
    assert '"//moco_tf:one",\n        "@pypi//pytest",' in text


def test_files_that_a_module_names_are_its_data(tree):
    folder = tree / "moco_tf/sub"
    (folder / "pages").mkdir()
    (folder / "pages" / "one.html").touch()
    (folder / "curve.json").touch()
    (folder / "two.py").write_text('A = "curve.json"\nB = "pages"\n')
    text = build_files.content(folder, tree)
    assert '    data = ["curve.json"] + glob(["pages/**"]),' in text
    assert text.count("data = ") == 1


def test_a_new_import_makes_the_file_stale(tree):
    for path, text in build_files.stale(tree).items():
        path.write_text(text)
    assert build_files.stale(tree) == {}
    (tree / "moco_tf/one.py").write_text("import tqdm\n")
    assert list(build_files.stale(tree)) == [tree / "moco_tf/BUILD"]


def test_only_the_command_line_reads_flags():
    package = build_files.ROOT / "moco_tf"
    readers = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if any(n.startswith("absl.flags") for n in build_files.imports(path))
    }
    assert readers == {"command_line.py"}
