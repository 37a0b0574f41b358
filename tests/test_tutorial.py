"""Every command of the tutorials runs as it stands, only shorter.

On images as the page names them: 300 of a photograph's size, and 20,000 of
CIFAR-10's.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from moco_tf.cli import main
from tests import page_commands

ROOT = pathlib.Path(__file__).resolve().parent.parent


# The commands one after another, each in a process that has started no device:
# what TensorFlow prints once in a process, each of them could show.
RUN = """
import os
import sys
from moco_tf.cli import main, quiet
quiet.prepare()
with quiet.imports():
    from moco_tf import counting
    from tests import page_commands, shallow
counting._PATIENCE = 0  # as if all took long
lines = [page_commands.smaller(line) for line in sys.argv[1:]]
for page in reversed(page_commands.TUTORIALS):
    lines[:0] = page_commands.commands(page)
for words in lines:
    print("$", *words, file=sys.stderr, flush=True)
    if child := os.fork():
        if os.waitpid(child, 0)[1]:
            sys.exit(1)
        continue
    with shallow.network((1, 1, 1, 1)):
        status = main.run(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
"""


# What else writes to a terminal: the other commands, after those of the pages.
MORE = (
    "moco-tf pretrain --workdir=runs/chosen"
    " --config.data.source=folder:data/images",
    "moco-tf benchmark --config=quickstart",
    "moco-tf import-weights --path=encoder.pth --workdir=runs/imported"
    " --config.model.width=0.125",
    "moco-tf export --workdir=runs/first --format=hf",
    *(
        f"moco-tf convert --model=runs/first/export/encoder --to={kind}"
        f" --path=encoder.{kind}"
        for kind in ("onnx", "tflite", "openvino")
    ),
    "moco-tf completion zsh",
)
# How TensorFlow's lines, and those of what comes with it, begin.
NOTICE = re.compile(
    r"\d{4}-\d\d-\d\d |[IWEF]\d{4} |WARNING|INFO|\S+:\d+: \w*Warning"
)
SIZES = {"photographs": (300, (375, 500)), "small": (20_000, (32, 32))}
# The commands are the same: one size is enough for the other lane.
PARAMS = [pytest.param("photographs", marks=pytest.mark.both_lanes), "small"]


@pytest.fixture(scope="module", params=PARAMS)
def place(request, tmp_path_factory):
    """A folder as the pages take it, with all their commands run in it."""
    folder = tmp_path_factory.mktemp("tutorial")
    count, size = SIZES[request.param]
    page_commands.write_images(folder / "data" / "images", count, 0, size)
    for seed, kind in enumerate(("one", "two")):
        page_commands.write_images(
            folder / "data" / "train" / kind, 40, 1 + seed, size
        )
        page_commands.write_images(
            folder / "data" / "test" / kind, 4, 11 + seed, size
        )
    shutil.copy(folder / "data/test/one/0.jpg", folder / "photo.jpg")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # The commands themselves choose how much TensorFlow says.
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    more = MORE if request.param == "photographs" else ()
    with open(folder / "stderr", "w") as err, open(folder / "out", "w") as out:
        done = subprocess.run(
            [sys.executable, "-c", RUN, *more],
            cwd=folder,
            env=environment,
            stdout=out,
            stderr=err,
        )
    assert done.returncode == 0, (folder / "stderr").read_text()
    return folder


def test_no_command_shows_a_notice_of_tensorflow(place):
    """What stands in standard error are warnings of the commands themselves."""
    lines = (place / "stderr").read_text().splitlines()
    # The first to make views on a machine compiles them, and says so.
    own = ("$ ", "Warning: ", "moco-tf: compiling the views")
    others = [x for x in lines if x and not x.startswith(own)]
    assert others == []
    lines = (place / "out").read_text().splitlines()
    assert len(lines) > 100
    assert [line for line in lines if NOTICE.match(line)] == []


def test_what_takes_long_says_so(place):
    """All of it, since here nobody has patience."""
    lines = (place / "out").read_text().splitlines()
    said = {re.split(r" \d+/| \.\.\.  ", line)[0] for line in lines}
    expected = {
        *("examining", "preparing", "compiling the first step", "encoding"),
        *("searching", "training", "classifying", "exporting"),
        *("drawing the report", "checking", "timing", "opening"),
    }
    if (place / "encoder.onnx").exists():  # the commands of no page, too
        expected |= {"converting", "importing", "measuring"}
    assert expected - said == set()


def test_every_command_is_among_those_that_are_run():
    pages = [
        words[0]
        for page in page_commands.TUTORIALS
        for words in page_commands.commands(page)
    ]
    assert {*pages, *(line.split()[1] for line in MORE)} == {*main.COMMANDS}


def test_the_pages_have_commands_of_every_kind():
    found = {
        words[0]
        for page in page_commands.TUTORIALS
        for words in page_commands.commands(page)
    }
    assert found == {
        "doctor",
        "prepare",
        "pretrain",
        "report",
        "knn",
        "linear",
        "finetune",
        "compare",
        "embed",
        "neighbours",
        "export",
        "export-weights",
    }


@pytest.mark.parametrize(
    "path",
    [
        "runs/first/doctor.csv",
        "runs/first/report.html",
        "runs/first/linear/result.json",
        "runs/first/finetune/result.json",
        "runs/first/export/encoder/1/saved_model.pb",
        "compared/compare.html",
        "runs/first/preset.py",
        "runs/small/metrics.csv",
        "images.npz",
        "near.csv",
        "encoder.pth",
    ],
)
def test_what_the_pages_promise_is_there(place, path):
    assert (place / path).stat().st_size > 0


def test_the_encoder_is_used_as_the_page_says(place, monkeypatch, capsys):
    (block,) = page_commands.blocks("tutorial.md", "python")
    monkeypatch.chdir(place)
    exec(compile(block, "tutorial.md", "exec"), {})
    assert capsys.readouterr().out == "(1, 64)\n"  # 512 x 0.125


def test_the_encoder_is_served_as_the_page_says(place):
    pytest.importorskip(
        "waitress", reason='needs the extra: pip install -e ".[serving]"'
    )
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    server, request = (
        block
        for block in page_commands.blocks("tutorial.md", "sh")
        if "launch/serve_local.py" in block or "curl" in block
    )
    words = shlex.split(server)
    words[:2] = [sys.executable, str(ROOT / words[1])]
    process = subprocess.Popen(
        [*words, "--port=0"], cwd=place, stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        port = re.search(r":(\d+)/v1/models/encoder", line)[1]
        done = subprocess.run(
            ["sh", "-c", request.replace("8501", port)],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        process.terminate()
        process.wait(20)
    (row,) = json.loads(done.stdout)["predictions"]
    assert len(row["features"]) == 64
