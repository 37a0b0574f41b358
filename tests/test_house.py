"""The rooms of the package and their sizes: imports go down only.

Everything here reads the sources; nothing of the package is loaded.
"""

import ast
import fnmatch
import graphlib
import pathlib
import re

import pytest

from tests import source_imports

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "moco_tf"
# From the ground up: a room imports from those above it in this list. A room
# is the folder of its name and the modules beside the folders that it names.
ROOMS = {
    "foundation": (
        "config_schema", "cores", "counting", "file_kinds", "filesystem",
        "lane", "naming", "paths", "standard_error", "state_files",
    ),
    "cluster": (),
    "data": (),
    "models": (),
    "methods": (),
    "monitoring": (),
    "training": (),
    "config": ("config", "records", "resuming", "workdirs"),
    "plan": ("plan",),
    "evaluation": (),
    "reporting": (),
    "weights": (),
    "serving": (),
    "pretrain": (
        "benchmark", "comparing", "encoders", "input_cost", "prepare",
        "pretrain",
    ),
    "doctor": (),
    "cli": ("__main__", "api", "keywords"),
}  # fmt: skip
LONG_PRESETS = ()  # of configs/; at most two


def sources(*trees):
    """The paths of the Python files of folders of the checkout, sorted."""
    return sorted(
        path for tree in trees for path in (ROOT / tree).rglob("*.py")
    )


def modules():
    """The modules below moco_tf, "data/views" -> path, without __init__."""
    return {
        path.relative_to(PACKAGE).with_suffix("").as_posix(): path
        for path in sources("moco_tf")
        if path.name != "__init__.py"
    }


def room_of(name):
    """The room of a module, as "data/views" or "config".

    Raises:
      ValueError: for a folder or a module that has no room yet.
    """
    first = name.split("/")[0]
    for room, patterns in ROOMS.items():
        if "/" in name and first == room:
            return room
        if "/" not in name and any(fnmatch.fnmatch(name, p) for p in patterns):
            return room
    raise ValueError(f"moco_tf/{name} must be of a room: see ROOMS.")


def imports():
    """The modules of the package that each module imports, name -> names."""
    known = modules()
    imported = {}
    for name, path in known.items():
        imported[name] = set()
        for dotted in source_imports.dotted_imports(path):
            parts = dotted.split(".")
            # "moco_tf.data.views.Recipe": a name, a module, a folder
            ends = range(2, len(parts) + 1) if parts[0] == "moco_tf" else ()
            names = {"/".join(parts[1:end]) for end in ends}
            imported[name] |= names & set(known) - {name}
    return imported


@pytest.fixture(name="arrows", scope="module")
def _arrows():
    return imports()


def test_imports_go_down_only(arrows):
    height = {room: number for number, room in enumerate(ROOMS)}
    up = [
        f"{name} ({room_of(name)}) imports {other} ({room_of(other)})"
        for name, others in arrows.items()
        for other in sorted(others)
        if height[room_of(other)] > height[room_of(name)]
    ]
    assert up == []


def _at_once(path):
    """What a module imports when it is imported itself, as written."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_a_training_does_not_wait_for_the_import_of_a_plotter():
    known, seen, waiting = modules(), set(), ["pretrain"]
    plotters = []
    while waiting:
        name = waiting.pop()
        seen.add(name)
        for dotted in _at_once(known[name]):
            if dotted.startswith("matplotlib"):
                plotters.append(name)
            other = "/".join(dotted.split(".")[1:])
            if dotted.startswith("moco_tf.") and other in set(known) - seen:
                waiting.append(other)
    assert {"reporting/board", "evaluation/neighbours"} <= seen
    assert plotters == []


def test_no_modules_import_each_other_in_a_circle(arrows):
    graphlib.TopologicalSorter(arrows).prepare()  # raises, naming the circle


def test_only_the_command_line_reads_flags():
    readers = {
        room_of(name)
        for name, path in modules().items()
        if any(
            dotted.startswith("absl.flags")
            for dotted in source_imports.dotted_imports(path)
        )
    }
    assert readers <= {"cli"}


def test_below_the_plan_nothing_receives_a_configuration():
    # But the rules of its fields, in the foundation.
    below = list(ROOMS)[
        list(ROOMS).index("cluster") : list(ROOMS).index("config")
    ]
    receivers = []
    for name, path in modules().items():
        if room_of(name) not in below:
            continue
        imported = source_imports.dotted_imports(path)
        if "ml_collections" in imported:
            receivers.append(name)
        receivers += [
            f"{name}: {node.name}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef)
            # Keras' own configs make a layer again.
            if node.name != "from_config"
            for argument in (*node.args.args, *node.args.kwonlyargs)
            if argument.arg in ("config", "run_config")
        ]
    assert receivers == []


def test_the_plan_alone_looks_up_a_methods_class():
    callers = {
        name
        for name, path in modules().items()
        if "method_class(" in path.read_text()
    }
    assert callers == {"methods/table", "plan"}


# Functions of TensorFlow, and of what stands on it, that are given a path.
TAKE_PATHS = (
    "checkpoint.read", "checkpoint.write", "train.load_checkpoint",
    "train.list_variables", "saved_model.load", "saved_model.save",
    "models.load_model", "model.save", "TFRecordWriter", "TFRecordDataset",
    "from_saved_model", "Interpreter", "InferenceSession", "from_function",
    "compile_model", "ArrayRecordReader", "EventFileWriter", "ParquetFile",
    "RawEventFileLoader", "experimental.start", "create_file_writer",
    "save_weights", "load_weights", "ParquetDataset", "gfile.GFile",
    "gfile.glob", "gfile.exists", "gfile.makedirs", "safetensors.safe_open",
)  # fmt: skip
# What writes below a path that its caller made plain.
GIVEN_PLAIN = {
    "monitoring/tensorboard: _cut_back",
    "serving/convert: write_openvino",
}


def takes_path(node):
    """Whether a node calls one of TAKE_PATHS."""
    if not isinstance(node, ast.Call):
        return False
    name = "." + ast.unparse(node.func)
    return any(name.endswith(f".{known}") for known in TAKE_PATHS)


def test_whatever_gives_a_path_to_the_platform_gives_it_a_plain_one():
    without, given = set(), 0
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                if any(takes_path(part) for part in ast.walk(node)):
                    given += 1
                    if "paths.plain(" not in ast.unparse(node):
                        without.add(f"{name}: {node.name}")
    assert without == GIVEN_PLAIN
    assert given > 15


def test_a_module_is_of_the_room_of_its_folder_or_of_one_that_names_it():
    assert room_of("data/views") == "data"
    assert room_of("config") == "config"
    with pytest.raises(ValueError, match="moco_tf/attic/chest must be of"):
        room_of("attic/chest")
    with pytest.raises(ValueError, match="moco_tf/data must be of"):
        room_of("data")


def test_every_room_has_a_row_on_the_page_of_the_design():
    text = (ROOT / "docs" / "design.md").read_text()
    for room in {room_of(name) for name in modules()}:
        assert f"| `{room}" in text, room


def test_the_walk_to_the_loss_has_the_lines_of_today():
    text = (ROOT / "docs" / "design.md").read_text()
    row = re.compile(r"^\| `([\w/]+\.py)` (\d+)–(\d+) \| `([\w.]+)` \|", re.M)
    rows = row.findall(text)
    total = 0
    for file, first, last, name in rows:
        body = ast.parse((PACKAGE / file).read_text()).body
        for part in name.split("."):
            (node,) = [n for n in body if getattr(n, "name", None) == part]
            body = node.body
        starts = [node, *node.decorator_list]
        lines = (min(n.lineno for n in starts), node.end_lineno)
        assert (int(first), int(last)) == lines, f"{file} {name}"
        total += lines[1] - lines[0] + 1
    assert {"pretrain.py", "methods/losses.py"} <= {row[0] for row in rows}
    assert f": {total} lines in all" in text
    assert total <= 1000


def test_imports_are_seen_wherever_they_stand(tmp_path):
    path = tmp_path / "one.py"
    path.write_text(
        "import os.path\n"
        "from moco_tf import config as configs\n"
        "PLACE = 'moco_tf.data.views:RECIPES'\n"
        "TEXT = 'see moco_tf.data.stream'\n"
        "def f():\n    from moco_tf.data.sources import Source\n"
    )
    assert set(source_imports.dotted_imports(path)) == {
        "os.path",
        "moco_tf.config",
        "moco_tf.data.views",
        "moco_tf.data.sources.Source",
    }


def test_there_are_at_most_180_modules():
    # 145, and of the calls from Python api and keywords, of log.txt printed;
    # of the two TensorFlows lane; of the doctor's GPUs exchange and report;
    # keras_files: what is accepted of a .keras file, and its form; then starts
    # from weights, comparisons, rules of --config=auto, the compiled views, a
    # cache of JPEGs, completion, other loggers, folders for Hugging Face.
    assert len(modules()) <= 180


def lines_of(path):
    return len(path.read_text().splitlines())


def longer(paths, limit):
    """Path and lines of the files that have more lines than the limit."""
    return [
        f"{path.relative_to(ROOT)}: {lines_of(path)}"
        for path in paths
        if lines_of(path) > limit
    ]


def test_no_module_has_more_than_550_lines():
    assert longer(modules().values(), 550) == []


def test_presets_have_at_most_45_lines():
    assert len(LONG_PRESETS) <= 2
    presets = [
        path
        for path in (ROOT / "configs").glob("*.py")
        if path.stem not in (*LONG_PRESETS, "_base")
    ]
    assert longer(presets, 45) == []


def test_build_files_have_at_most_30_lines():
    paths = [
        path
        for path in (ROOT / "BUILD", *sorted(ROOT.glob("*/**/BUILD")))
        if ".venv" not in path.parts
    ]
    assert longer(paths, 30) == []


def code_lines(function):
    """The number of lines of a function, its docstring left out."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    docstring = function.body[0]
    return lines - (docstring.end_lineno - docstring.lineno + 1)


def test_no_function_has_more_than_60_lines_of_code():
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in sources("moco_tf", "launch", "tests", "tools")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if code_lines(node) > 60
    ]
    assert long == []
