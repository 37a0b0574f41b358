"""The Dockerfile: what its image is made of, read without Docker."""

import json
import pathlib
import re
import shlex

import pytest

import moco_tf
from tools import image_steps

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "Dockerfile").read_text()
RULES = [
    line
    for line in (ROOT / ".dockerignore").read_text().splitlines()
    if line and not line.startswith("#")
]


@pytest.fixture(name="stages", scope="module")
def _stages():
    return image_steps.stages(TEXT, {})


def steps(stages, name):
    """The instructions of a stage, those of its base first."""
    base, body = stages[name]
    return (steps(stages, base) if base in stages else []) + body


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_the_image_runs_the_command_as_a_user_without_rights(stages, target):
    body = steps(stages, target)
    last = dict(body)
    user = last["USER"].split(":")[0]
    made = [rest for name, rest in body if name == "RUN"]
    assert any(f"--uid {user} " in rest for rest in made) and user != "0"
    assert json.loads(last["ENTRYPOINT"]) == ["moco-tf"]
    assert last["ENV"].startswith("PATH=/opt/moco-tf/bin:")
    assert last["WORKDIR"] == "/home/moco"
    assert "HEALTHCHECK" not in last
    # Nothing but the environment comes from where packages were fetched.
    copied = [rest.split() for name, rest in body if name == "COPY"]
    packages = {"cpu": "packages", "gpu": "packages-gpu"}[target]
    place = "/opt/moco-tf"
    assert copied == [[f"--from={packages}", place, place]]


def test_every_package_is_checked_by_its_hash(stages):
    fetched = [
        " ".join(json.loads(rest)) if rest.startswith("[") else rest
        for name, rest in steps(stages, "packages-gpu")
        if name == "RUN"
    ]
    assert len(fetched) == 3
    assert "install_locked" in fetched[0]  # of launch/setup.sh: with hashes
    assert "--no-deps --no-build-isolation" in fetched[1]
    assert "--require-hashes -r requirements$suffix-gpu.txt" in fetched[2]


def test_functions_of_the_setup_that_it_calls_are_there(stages):
    setup = (ROOT / "launch/setup.sh").read_text()
    called = set(re.findall(r"\b(choose_lane|install_locked)\b", TEXT))
    for name in called | {"choose_lane", "install_locked"}:
        assert re.search(rf"^{name}\(\) \{{", setup, re.M)


def test_both_bases_and_lanes_are_arguments(stages):
    assert stages["runtime"][0] == "python:3.11-slim-bookworm"
    other = {"PYTHON": "3.13"}
    base = image_steps.stages(TEXT, other)["packages"][0]
    assert base == "python:3.13-slim-bookworm"
    own = {"BASE": "mine@sha256:0"}
    assert image_steps.stages(TEXT, own)["runtime"][0] == "mine@sha256:0"
    assert ("ARG", "LANE=2.15") in stages["packages"][1]


def test_the_head_names_images_of_this_version():
    for target in ("cpu", "gpu"):
        tag = f"moco-tf:{moco_tf.__version__}-{target}"
        assert f"docker build --target={target} -t {tag} ." in TEXT


def test_the_context_has_what_is_built_and_nothing_else():
    for path in (
        *("pyproject.toml", "README.md", "LICENSE", "requirements.txt"),
        *(
            "requirements-current-gpu.txt",
            "launch/setup.sh",
            "configs/_base.py",
        ),
        *("moco_tf/py.typed", "moco_tf/reporting/published_cifar10.json"),
        "moco_tf/data/views.py",
    ):
        assert (ROOT / path).is_file()
        assert not image_steps.is_ignored(path, RULES), path
    for path in (
        *(".git/config", ".venv/bin/python", "runs/a/metrics.csv", "BUILD"),
        *("moco_tf/data/BUILD", "tests/small_run.py", "launch/quickstart.sh"),
        *("moco_tf/__pycache__/lane.pyc", "data/photo.jpg", ".env"),
    ):
        assert image_steps.is_ignored(path, RULES), path
    # Whatever the build copies by name is there.
    for words in re.findall(r"^COPY (?!--from)(.+)$", TEXT, re.M):
        for name in shlex.split(words)[:-1]:
            assert name == "." or list(ROOT.glob(name)), name


@pytest.mark.parametrize(
    ("rules", "path", "ignored"),
    [
        (["*"], "a/b", True),
        (["*", "!a"], "a/b", False),
        (["*", "!a", "**/b"], "a/c/b", True),
        (["*", "!a/*.py"], "a/x.py", False),
        (["*", "!a/x.py"], "a/y.py", True),
        (["b", "!b/c"], "b/c", False),
    ],
)
def test_the_last_rule_that_fits_counts(rules, path, ignored):
    assert image_steps.is_ignored(path, rules) == ignored


def test_values_are_put_in_where_they_are_known():
    text = "python:${A}-x $B ${C}"
    assert image_steps.substitute(text, {"A": "3", "B": "b"}) == (
        "python:3-x b ${C}"
    )
