import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from tests import waiting

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = ("launch/quickstart.sh", "launch/test.sh", ".ci/run")

# The setup's steps in a checkout of its own, where Python is a stand-in: it
# makes an environment in which `pip` notes its arguments and `FAIL` fails one.
_PYTHON = """#!/bin/bash
case "$*" in
*sys.version_info*) [ "${{@: -1}}" = {version} ]; exit ;;
*hashlib*) exec {python} "$@" ;;
"-m venv "*)
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
*"pip "*)
    echo "$*" >>"$NOTES"
    [ -z "$SLOW" ] || sleep "$SLOW"
    if [ -n "$FAIL" ] && [[ "$*" == *"$FAIL"* ]]; then exit 1; fi ;;
*)
    echo "ran: $*"
    exit ${{STATUS:-0}} ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout with the real scripts, a stand-in Python and its notes."""
    for name in ("launch/setup.sh", *SCRIPTS, "pyproject.toml"):
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((ROOT / name).read_bytes())
        path.chmod(0o755)
    lock = "setuptools==1 \\\n    --hash=sha256:a\nwheel==2 \\\n    --hash=b\n"
    for lane in ("", "-current"):
        path = tmp_path / f"checkout/requirements{lane}"
        for kind, text in (
            ("", lock + "zipp==3\n"),
            ("-dev", "pytest==9\n"),
            ("-gpu", "nvidia-x==1\n"),
        ):
            path.with_name(f"{path.name}{kind}.txt").write_text(text)
    (tmp_path / "bin").mkdir()
    add_python(tmp_path / "bin/python3.11", "3.11")
    return tmp_path


def add_python(path, version):
    """Puts a stand-in of a version of Python to a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_PYTHON.format(python=sys.executable, version=version))
    path.chmod(0o755)


def start(checkout, script, *words, path=None, **variables):
    """Starts a script in a clean environment."""
    path = path or f"{checkout}/bin:/usr/bin:/bin"
    notes = str(checkout / "notes")
    environ = {"PATH": path, "NOTES": notes, "HOME": str(checkout)}
    return subprocess.Popen(
        ["/bin/bash", checkout / "checkout" / script, *words],
        env=environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, **variables):
    """Returns status, stdout and stderr of a script."""
    process = start(*arguments, **variables)
    out, err = process.communicate()
    return process.returncode, out, err


def started(out):
    """The line of the last program that a script started."""
    return [line for line in out.splitlines() if line.startswith("ran: ")][-1]


def notes(checkout):
    path = checkout / "notes"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_executable(script):
    assert os.access(ROOT / script, os.X_OK)


def test_without_python_it_says_what_to_install(checkout):
    tools = checkout / "tools"
    tools.mkdir()
    for name in ("dirname", "bash"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    status, out, err = run(checkout, "launch/test.sh", path=str(tools))
    assert status == 1
    assert err.startswith("Python 3.11, 3.12 or 3.13 with venv is needed")
    assert "apt-get install python3.11 python3.11-venv" in err
    assert "apt-get install python3.12 python3.12-venv" in err
    assert "uv python install 3.11" in err
    assert not list(checkout.glob("checkout/.venv*"))


@pytest.mark.parametrize("name", ["python3", "python"])
def test_python_is_found_under_another_name(checkout, name):
    python = checkout / "bin/python3.11"
    python.rename(checkout / "right")
    for other in ("python3.11", "python3", "python"):
        path = checkout / "bin" / other
        path.write_text("#!/bin/bash\nexit 1\n")
        path.chmod(0o755)
    (checkout / "right").rename(checkout / "bin" / name)
    status, out, err = run(checkout, "launch/quickstart.sh")
    assert status == 0, err


def test_python_is_found_through_uv(checkout):
    python = checkout / "bin/python3.11"
    python.rename(checkout / "from-uv")
    for name, text in {
        "python3.11": "exit 1",
        "python3": "exit 1",
        "python": "exit 1",
        "uv": f"echo {checkout}/from-uv",
    }.items():
        (checkout / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (checkout / "bin" / name).chmod(0o755)
    status, out, err = run(checkout, "launch/quickstart.sh")
    assert status == 0, err


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_a_newer_python_has_the_current_lane(checkout, version):
    add_python(checkout / "bin/python3.11", "3.10")  # nor the machine's
    add_python(checkout / "bin/python3", version)
    status, out, err = run(checkout, "launch/test.sh")
    assert status == 0, err
    root = checkout / "checkout"
    installed = [
        line.split("-r ")[1] for line in notes(checkout) if "-r " in line
    ]
    assert installed == [
        f"{root}/.venv-current/build.txt",
        f"{root}/requirements-current.txt",
        f"{root}/requirements-current-dev.txt",
    ]
    # Commands of the documentation begin with .venv/bin.
    assert (root / ".venv").readlink() == pathlib.Path(".venv-current")


def test_the_lane_is_that_of_python_3_11_where_there_are_both(checkout):
    add_python(checkout / "bin/python3", "3.13")
    run(checkout, "launch/quickstart.sh")
    assert [p.name for p in checkout.glob("checkout/.venv*")] == [".venv"]
    assert "requirements.txt" in notes(checkout)[1]


@pytest.mark.parametrize("words", [["--lane=current"], ["--lane", "current"]])
def test_a_lane_can_be_chosen_and_stays(checkout, words):
    add_python(checkout / "bin/python3.12", "3.12")
    status, out, err = run(checkout, "launch/quickstart.sh", *words, "w")
    assert status == 0, err
    assert started(out).endswith("--workdir=w --report")
    first = notes(checkout)
    assert "requirements-current.txt" in first[1]
    run(checkout, "launch/quickstart.sh")
    assert notes(checkout) == first  # of .venv


def test_both_lanes_lie_side_by_side(checkout):
    add_python(checkout / "bin/python3.12", "3.12")
    root = checkout / "checkout"
    run(checkout, "launch/quickstart.sh", "--lane=current")
    run(checkout, "launch/quickstart.sh", "--lane=2.15")
    assert not (root / ".venv").is_symlink()
    first = notes(checkout)
    for lane in ("2.15", "current"):
        status, out, err = run(checkout, "launch/quickstart.sh", "--lane", lane)
        assert status == 0, err
    assert notes(checkout) == first
    run(checkout, "launch/test.sh")
    assert notes(checkout)[-1].endswith("/requirements-dev.txt")


def test_a_lane_without_its_python_says_what_to_install(checkout):
    words = ["launch/quickstart.sh", "--lane=current"]
    for name in ("python3.12", "python3.13", "python3"):  # nor the machine's
        add_python(checkout / "bin" / name, "3.10")
    status, out, err = run(checkout, *words)
    assert status == 1
    assert err.startswith("The lane current needs Python 3.12 or 3.13")
    assert "uv python install 3.12" in err
    add_python(checkout / "bin/python3.12", "3.12")  # as it says
    status, out, err = run(checkout, *words)
    assert status == 0, err


def test_ci_runs_its_turn_in_one_lane_and_a_part_in_the_other(checkout):
    (checkout / "bin/id").write_text("#!/bin/bash\necho 1000\n")  # no root
    (checkout / "bin/id").chmod(0o755)
    for name in ("python3.12", "python3.13", "python3"):  # nor the machine's
        add_python(checkout / "bin" / name, "3.10")
    status, out, err = run(checkout, ".ci/run")
    assert status == 0, err
    assert "The lane current is not tested: there is no Python" in out
    begun = [line for line in out.splitlines() if line.startswith("ran: -m")]
    assert len(begun) == 1
    assert re.search(" --turn=[012]( |$)", begun[0])
    add_python(checkout / "bin/python3.13", "3.13")
    status, out, err = run(checkout, ".ci/run")
    assert status == 0, err
    begun = [line for line in out.splitlines() if line.startswith("ran: -m")]
    assert len(begun) == 2
    assert re.search(" --turn=[012]( |$)", begun[0])
    assert begun[1].endswith(" -m both_lanes")
    assert "requirements-current-dev.txt" in notes(checkout)[-1]


@pytest.mark.parametrize("word", ["--lane=2.16", "--lane"])
def test_another_lane_is_refused_with_those_that_there_are(checkout, word):
    status, out, err = run(checkout, "launch/test.sh", word)
    assert (status, notes(checkout)) == (1, [])
    assert "--lane must be 2.15 or current" in err


def test_python_is_found_in_pyenv(checkout):
    add_python(checkout / ".pyenv/versions/3.12.1/bin/python", "3.12")
    # Shims of another one.
    for name in ("python3.11", "python3.12", "python3", "python"):
        add_python(checkout / "bin" / name, "3.10")
    status, out, err = run(checkout, "launch/quickstart.sh")
    assert status == 0, err


def test_every_package_is_installed_with_hashes_checked(checkout):
    run(checkout, "launch/test.sh")
    installs = [line for line in notes(checkout) if " -r " in line]
    assert len(installs) == 3
    assert all("--require-hashes" in line for line in installs)
    build = (checkout / "checkout/.venv/build.txt").read_text()
    assert "setuptools==1" in build and "wheel==2" in build
    assert "--hash=sha256:a" in build and "zipp" not in build


def test_quickstart_passes_workdir_and_flags_on(checkout):
    default = f"{checkout}/checkout/runs/quickstart"
    command = "ran: -m moco_tf pretrain --config=quickstart --workdir="
    for words, expected in (
        ([], f"{default} --report"),
        (["w"], "w --report"),
        (["--config.seed=1"], f"{default} --report --config.seed=1"),
        (["w", "--config.seed=1"], "w --report --config.seed=1"),
    ):
        status, out, err = run(checkout, "launch/quickstart.sh", *words)
        assert status == 0
        assert started(out) == command + expected


def test_quickstart_ends_with_how_to_go_on(checkout):
    status, out, err = run(checkout, "launch/quickstart.sh")
    assert status == 0, err
    lines = [line.strip() for line in out.splitlines()]
    activate = shlex.split(lines[lines.index("moco-tf --help") - 1])
    assert activate[0] == "source"
    folder = pathlib.Path(activate[1]).parent
    assert folder.parts[-2:] == (".venv", "bin")
    assert (folder / "python").exists()
    assert shlex.split(lines[-1]) == [str(folder / "moco-tf"), "--help"]


def test_quickstart_that_fails_ends_with_its_status_alone(checkout):
    status, out, err = run(checkout, "launch/quickstart.sh", STATUS="3")
    assert status == 3
    assert "To go on" not in out


def test_a_ready_environment_is_reused_by_both_scripts(checkout):
    run(checkout, "launch/test.sh")
    first = notes(checkout)
    run(checkout, "launch/test.sh")
    run(checkout, "launch/quickstart.sh")
    assert notes(checkout) == first


def test_tests_add_to_the_environment_of_the_quickstart(checkout):
    run(checkout, "launch/quickstart.sh")
    first = notes(checkout)
    run(checkout, "launch/test.sh")
    added = notes(checkout)[len(first) :]
    assert len(added) == 1
    assert added[0].endswith("requirements-dev.txt")


def test_changed_requirements_make_the_environment_anew(checkout):
    run(checkout, "launch/quickstart.sh")
    first = notes(checkout)
    (checkout / "checkout/requirements.txt").write_text("zipp==4\n")
    run(checkout, "launch/quickstart.sh")
    assert len(notes(checkout)) == 2 * len(first)


@pytest.mark.parametrize("step", ["build.txt", "requirements.txt", "-e"])
def test_a_failed_setup_does_not_count_as_ready(checkout, step):
    status, out, err = run(checkout, "launch/quickstart.sh", FAIL=step)
    assert status == 1
    assert "could not be made" in err
    assert "ran:" not in out
    status, out, err = run(checkout, "launch/quickstart.sh")
    assert status == 0
    assert "ran:" in out
    assert sum(step in line for line in notes(checkout)) == 2


def test_a_killed_setup_does_not_count_as_ready(checkout):
    process = start(checkout, "launch/quickstart.sh", SLOW="0.3")
    waiting.wait_for(lambda: notes(checkout))
    process.kill()
    process.communicate()
    first = len(notes(checkout))
    status, out, err = run(checkout, "launch/quickstart.sh")
    assert status == 0
    assert len(notes(checkout)) - first == 3


def test_two_starts_at_once_set_up_once(checkout):
    both = [
        start(checkout, "launch/quickstart.sh", "w", SLOW="0.1")
        for _ in range(2)
    ]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all("ran: " in out for out in outputs)
    assert len(notes(checkout)) == 3


def cuda(checkout, suffix=""):
    """How often CUDA was installed in a lane."""
    lock = f"requirements{suffix}-gpu"
    lines = [line for line in notes(checkout) if lock in line]
    assert all("--require-hashes" in line for line in lines)
    return len(lines)


@pytest.mark.parametrize("script", ["launch/quickstart.sh", "launch/test.sh"])
def test_cuda_is_installed_where_it_is_asked_for(checkout, script):
    status, out, err = run(checkout, script)
    assert (status, cuda(checkout)) == (0, 0), err
    status, out, err = run(checkout, script, "word", "--gpu", "--flag=1")
    assert (status, cuda(checkout)) == (0, 1), err
    ran = started(out)
    assert "word" in ran and "--flag=1" in ran and "--gpu" not in ran
    run(checkout, script)
    assert cuda(checkout) == 1  # it is there


@pytest.mark.parametrize("suffix", ["", "-current"])
def test_an_update_of_the_lock_does_not_lose_cuda(checkout, suffix):
    words = ["launch/quickstart.sh"]
    if suffix:
        add_python(checkout / "bin/python3.12", "3.12")
        words.append("--lane=current")
    run(checkout, *words, "--gpu")
    old = checkout / f"checkout/.venv{suffix}/of_the_old_lock"
    old.touch()
    lock = f"requirements{suffix}.txt"
    (checkout / "checkout" / lock).write_text("zipp==4\n")
    # Nor does one that fails in the middle.
    status, out, err = run(checkout, *words, FAIL=f"/{lock}")
    assert (status, cuda(checkout, suffix)) == (1, 1)
    assert not old.exists()
    status, out, err = run(checkout, *words)
    assert (status, cuda(checkout, suffix)) == (0, 2), err


def test_a_new_lock_of_cuda_is_installed(checkout):
    run(checkout, "launch/quickstart.sh", "--gpu")
    (checkout / "checkout/requirements-gpu.txt").write_text("nvidia-x==2\n")
    run(checkout, "launch/test.sh")
    assert cuda(checkout) == 2


def test_compiled_kernels_are_kept_unless_the_user_says_how_many(checkout):
    script = checkout / "checkout/launch/setup.sh"
    for given, expected in (
        ({}, "4294967296"),
        ({"CUDA_CACHE_MAXSIZE": "9"}, "9"),
    ):
        command = f". {script}; echo $CUDA_CACHE_MAXSIZE"
        done = subprocess.run(
            ["/bin/bash", "-c", command],
            env={"PATH": "/usr/bin:/bin"} | given,
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == expected, done.stderr
