import bazel_sizes
import build_files
import pytest
import source_reads


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
        [],
    )
    path = tree / "moco_tf/sub/three.py"
    assert build_files.target(path, tree)[2] == ["//moco_tf"]


def test_the_standard_library_is_no_dep(tree):
    path = tree / "moco_tf/one.py"
    assert build_files.target(path, tree)[2] == ["@pypi//numpy"]


def test_a_test_is_run_by_pytest_and_has_a_size(tree):
    text = build_files.content(tree / "tests", tree)
    assert 'pytest_test(\n    name = "test_one",\n    size = "medium",' in text
    assert '"//moco_tf:one",\n        "@pypi//pytest",' in text


def test_a_package_of_its_own_is_a_dep(tree):
    path = tree / "moco_tf/one.py"
    path.write_text("import moco_tf\nimport torch\nimport keras_cv\n")
    assert build_files.target(path, tree)[2] == [
        ":moco_tf",
        "@pypi//keras_cv",
        "@pypi//tensorflow",  # KerasCV does not declare it; torch is no dep
    ]


@pytest.mark.parametrize(
    "text",
    [
        'PLACE = "moco_tf.sub.two:f"\n',
        'CODE = "\\n    from moco_tf.sub import two\\n    two.f()"\n',
        'WORDS = ["python", "-m", "moco_tf.sub.two", "--flag"]\n',
        'SCRIPT = pathlib.Path(__file__).parent / "sub" / "two.py"\n',
        'SCRIPT = pathlib.Path(__file__).with_name("sub/two.py")\n',
        'SCRIPT = "moco_tf/sub/two.py"\n',
        'two = pytest.importorskip("moco_tf.sub.two")\n',
    ],
)
def test_a_module_that_is_named_is_a_dep(tree, text):
    path = tree / "moco_tf/one.py"
    path.write_text(text)
    assert build_files.target(path, tree)[2:] == (["//moco_tf/sub:two"], [])


def test_a_module_that_is_run_is_a_dep(tree):
    (tree / "moco_tf/__main__.py").write_text(
        'if __name__ == "__main__":\n    pass\n'
    )
    path = tree / "tests/test_one.py"
    path.write_text('WORDS = ["-m", "moco_tf", "pretrain"]\n')
    assert build_files.target(path, tree)[2] == ["//moco_tf:main"]
    assert 'name = "main",' in build_files.content(tree / "moco_tf", tree)


def test_examples_on_a_page_that_is_read_are_imports(tree):
    page = "Text.\n```python\nfrom moco_tf.sub import two\n```\nMore.\n"
    (tree / "README.md").write_text(page)
    path = tree / "tests/test_one.py"
    path.write_text('PAGE = ROOT / "README.md"\n')
    wanted = (["//moco_tf/sub:two"], ["//:README.md"])
    assert build_files.target(path, tree)[2:] == wanted


@pytest.mark.parametrize(
    "text",
    [
        'PAGE = ROOT / "moco_tf" / "sub" / "pages" / name\n',
        'PAGE = ROOT / "moco_tf/sub/curve.json"\n',
        'PAGE = "moco_tf/sub/pages/one.html"\n',
        'PAGE = jinja2.PackageLoader("moco_tf.sub", "pages")\n',
    ],
)
def test_files_that_a_module_names_are_its_data(tree, text):
    folder = tree / "moco_tf/sub"
    (folder / "pages").mkdir()
    (folder / "pages" / "one.html").touch()
    (folder / "curve.json").touch()
    path = tree / "tests/test_one.py"
    path.write_text(text)
    assert build_files.target(path, tree)[3] == ["//moco_tf/sub:files"]
    assert 'name = "files",' in build_files.content(folder, tree)
    assert "filegroup" not in build_files.content(tree / "moco_tf", tree)


@pytest.mark.parametrize(
    "text", ['A = tmp_path / "README.md"\n', 'A = "runs/one/log.txt"\n']
)
def test_what_a_run_writes_is_no_data(tree, text):
    (tree / "runs/one").mkdir(parents=True)
    (tree / "runs/one/log.txt").touch()
    (tree / "README.md").touch()
    path = tree / "tests/test_one.py"
    path.write_text(text)
    assert build_files.target(path, tree)[3] == []


def test_the_named_sizes_and_exceptions_are_tests():
    tests = build_files.ROOT / "tests"
    sized = [name for names in bazel_sizes.SIZES.values() for name in names]
    assert len(sized) == len(set(sized))
    for name in (*sized, *bazel_sizes.CHECKOUT):
        assert (tests / f"{name}.py").is_file(), name


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
        if any(
            name.startswith("absl.flags")
            for name in source_reads.reads(path, build_files.ROOT)[0]
        )
    }
    assert readers == {"command_line.py"}
