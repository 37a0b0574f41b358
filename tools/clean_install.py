"""Installs the wheel and the source distribution in a clean environment.

    python3.12 tools/clean_install.py          # of the Python that runs it

Builds both of what git has, makes an environment of the locked packages, every
hash checked, and there, in an empty folder, installs one after the other and
uses it: commands, a training of four steps, an export, a call from Python.
Prints the seconds of each part; the first that fails ends it with status 1.
"""

import argparse
import os
import pathlib
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
_BUILD = "import sys; from setuptools import build_meta as build; "
_TRAINING = (
    *("--config=quickstart", "--config.train.max_steps=4"),
    *("--config.train.batch_size=16", "--config.moco.queue_size=64"),
    *("--config.data.image_size=32", "--config.data.small_size=16"),
    *("--config.knn.bank=", "--config.knn.query=", "--devices=cpu"),
)
_CALL = """
import moco_tf, numpy as np
run = moco_tf.Run("run")
images = np.zeros([2, 40, 50, 3], np.uint8)
assert run.embed(images).features.shape == (2, 128), run
"""


class Environment:
    """A virtual environment, in which each command is timed."""

    def __init__(self, folder, suffix):
        """Makes it, with the packages of a lane's lock.

        Args:
          folder: Path. suffix: of the lane's files: "" or "-current".
        """
        self._python = folder / "bin" / "python"
        self._time("environment", sys.executable, "-m", "venv", str(folder))
        lock = ROOT / f"requirements{suffix}.txt"
        # What builds packages that come as source only is checked as well.
        script = f'. launch/setup.sh; suffix={suffix}; locked "$@"'
        builders = ("setuptools", "wheel", "packaging")
        first = folder / "build.txt"
        with first.open("w") as file:
            words = ["bash", "-c", script, "bash", *builders]
            subprocess.run(words, cwd=ROOT, stdout=file, check=True)
        hashed = ("--require-hashes", "-r")
        self.pip("build tools", *hashed, first)
        self.pip("locked packages", "--no-build-isolation", *hashed, lock)

    def pip(self, title, *words):
        """Installs what the words say."""
        self.python(
            title,
            *("-m", "pip", "--disable-pip-version-check", "install", "-qq"),
            *words,
        )

    def python(self, title, *words, folder=None):
        """Runs the environment's Python."""
        self._time(title, self._python, *words, folder=folder)

    def command(self, *words, folder):
        """Runs moco-tf as it was installed."""
        script = self._python.with_name("moco-tf")
        self._time(f"moco-tf {words[0]}", script, *words, folder=folder)

    def _time(self, title, *words, folder=None):
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        started = time.monotonic()
        words = list(map(str, words))
        done = subprocess.run(
            words, cwd=folder, env=env, capture_output=True, text=True
        )
        seconds = time.monotonic() - started
        if done.returncode:
            print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
            sys.exit(f"{title} failed: {shlex.join(words)}")
        print(f"{seconds:7.1f} s  {title}", flush=True)


def unpack(archive, folder):
    """Unpacks a source distribution; returns its folder."""
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    (path,) = folder.glob("moco_tf-*/")
    return path


def build(environment, folder):
    """Builds the source distribution of git's files, and its wheel.

    Returns:
      Paths of both.
    """
    tree = folder / "tree"
    tree.mkdir()
    words = f"git archive HEAD | tar -x -C {shlex.quote(str(tree))}"
    subprocess.run(["bash", "-c", words], cwd=ROOT, check=True)
    code = _BUILD + "build.build_sdist(sys.argv[1])"
    environment.python("sdist is built", "-c", code, folder, folder=tree)
    (sdist,) = folder.glob("*.tar.gz")
    code = _BUILD + "build.build_wheel(sys.argv[1])"
    source = unpack(sdist, folder)
    environment.python("wheel is built", "-c", code, folder, folder=source)
    (wheel,) = folder.glob("*.whl")
    return wheel, sdist


def use(environment, folder):
    """Uses what is installed, in an empty folder."""
    environment.python("pip check", "-m", "pip", "check", folder=folder)
    command = environment.command
    command("--version", folder=folder)
    command("completion", "zsh", folder=folder)
    command("pretrain", "--workdir=run", *_TRAINING, folder=folder)
    command("export", "--workdir=run", folder=folder)
    command("export", "--workdir=run", "--format=hf", folder=folder)
    environment.python("import moco_tf", "-c", _CALL, folder=folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    suffix = "" if sys.version_info[:2] == (3, 11) else "-current"
    print(f"Python {sys.version.split()[0]}, requirements{suffix}.txt")
    with tempfile.TemporaryDirectory(prefix="moco-tf-clean-") as name:
        root = pathlib.Path(name)
        environment = Environment(root / "environment", suffix)
        build_folder = root / "build"
        build_folder.mkdir()
        for package in build(environment, build_folder):
            kind = "wheel" if package.suffix == ".whl" else "sdist"
            print(f"{kind}: {package.name}, {package.stat().st_size} bytes")
            environment.pip(
                f"{kind} is installed",
                *("--no-deps", "--no-build-isolation", "--force-reinstall"),
                package,
            )
            place = root / f"empty-{kind}"
            place.mkdir()
            use(environment, place)
    print("done")


if __name__ == "__main__":
    main()
