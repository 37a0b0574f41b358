"""SECURITY.md against the lock files, and what it says of the environment."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT = (ROOT / "SECURITY.md").read_text()
LOCKS = {"2.15": "requirements-dev.txt"} | {
    # of the second lane, once it is there
    path.name.split("-")[1]: path.name
    for path in ROOT.glob("requirements-*-dev.txt")
}


def rows(lane):
    """The rows of a lane's table: lists of cells.

    Raises:
      ValueError: for a lane without a section.
    """
    match = re.search(rf"^### Lane {re.escape(lane)} \((.*)\)\n", TEXT, re.M)
    if not match or match[1] != f"`{LOCKS[lane]}`":
        raise ValueError(f"SECURITY.md must have a section on {LOCKS[lane]}.")
    section = TEXT[match.end() :].partition("\n#")[0]
    table = [x for x in section.splitlines() if x.startswith("| ")][1:]
    return [[cell.strip() for cell in x.strip("|").split("|")] for x in table]


def faults(table, lock):
    """What a table says that a lock does not: names with both versions."""
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", lock, re.M))
    return [
        f"{name} {version}, locked {locked.get(name)}"
        for name, version, *_ in table
        if locked.get(name) != version
    ]


@pytest.mark.parametrize("lane", LOCKS)
def test_the_versions_are_those_of_the_lock(lane):
    table = rows(lane)
    assert len(table) >= 3
    assert faults(table, (ROOT / LOCKS[lane]).read_text()) == []


def test_another_version_or_package_is_noticed():
    table = [["onnx", "1.17.0"], ["keras", "2.15.0"], ["gone", "1"]]
    lock = "onnx==1.21.0 \\\n    --hash=x\nkeras==2.15.0\n"
    assert faults(table, lock) == [
        "onnx 1.17.0, locked 1.21.0",
        "gone 1, locked None",
    ]


@pytest.mark.parametrize("lane", LOCKS)
def test_every_row_names_advisories_a_fault_and_an_answer(lane):
    for _, _, advisories, fault, answer in rows(lane):
        assert re.fullmatch(r"(CVE-\d{4}-\d+(, )?)+", advisories)
        assert fault and re.match("no: |yes: ", answer)


def test_no_advisory_stands_twice_on_a_package():
    for lane in LOCKS:
        named = [(row[0], x) for row in rows(lane) for x in row[2].split(", ")]
        assert len(named) == len(set(named))


def test_the_files_that_it_names_are_there():
    named = re.findall(r"`((?:moco_tf|docs)/[\w/.]+)`", TEXT)
    assert len(named) >= 4
    assert all((ROOT / name).exists() for name in named)


@pytest.mark.parametrize("chosen", ["", "/opt/plugins"])
def test_plugins_and_reports_are_forbidden_before_anything_is_loaded(chosen):
    names = (
        *("HDF5_PLUGIN_PATH", "HDF5_PLUGIN_PRELOAD"),
        "ORT_DISABLE_TELEMETRY",
    )
    environment = {k: v for k, v in os.environ.items() if k not in names}
    if chosen:
        environment[names[0]] = chosen  # by the user, whose word it is
    printed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, sys, moco_tf\n"
            "assert not {'h5py', 'tensorflow'} & set(sys.modules)\n"
            f"print(*(os.environ[n] for n in {names}))",
        ],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert printed == f"{chosen or 'disable'} :: 1\n"
