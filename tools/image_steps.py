"""Runs the steps of the Dockerfile in empty folders, where there is no Docker.

    sudo python tools/image_steps.py --target=cpu --python=/usr/bin/python3.11

Each stage has a root of its own, in which its commands run by chroot. The base
image is stood in for by this machine's /usr, read-only, a copy of its /etc, and
the Python that is named; so what these hide, a library that only the real base
lacks, is not seen. Everything else is the Dockerfile's: what .dockerignore lets
in, the hashes, the user, the entry point. At the end the entry point is run as
that user: its version, and a training of four steps.
"""

import argparse
import fnmatch
import json
import os
import pathlib
import pwd
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What packages are fetched by, here as in a build of Docker.
_PASSED = re.compile(r"PIP_|SSL_CERT_FILE|REQUESTS_CA|.*_proxy|.*_PROXY")
_TRAINING = (
    *("pretrain", "--config=quickstart", "--workdir=runs/first"),
    *("--config.train.max_steps=4", "--config.train.batch_size=16"),
    *("--config.moco.queue_size=64", "--config.data.image_size=32"),
    *("--config.data.small_size=16", "--config.log.every_steps=2"),
    *("--config.knn.bank=", "--config.knn.query=", "--devices=cpu"),
)


def instructions(text):
    """Yields (instruction, its words as one text) of a Dockerfile."""
    text = re.sub(r"(?m)^\s*#.*\n", "", text).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        yield name.upper(), rest.strip()


def stages(text, arguments):
    """The stages of a Dockerfile, by name.

    Args:
      text: of the file. arguments: dict of build arguments that are given.

    Returns:
      dict name -> (base, list of instructions); values of ARG stand in it.
    """
    before: dict[str, str] = {}
    known: dict[str, Any] = {}
    for name, rest in instructions(text):
        if name == "FROM":
            base, _, title = substitute(rest, before).partition(" AS ")
            body: list[tuple[str, str]] = []
            known[title] = (base, body)
        elif name == "ARG" and not known:
            key, _, value = rest.partition("=")
            before[key] = arguments.get(key, substitute(value, before))
        else:
            body.append((name, rest))
    return known


def substitute(text, values):
    """Puts values in for $NAME and ${NAME}; unknown ones stay."""
    return re.sub(
        r"\$(?:\{(\w+)\}|(\w+))",
        lambda match: values.get(match[1] or match[2], match[0]),
        text,
    )


def is_ignored(path, rules):
    """Whether .dockerignore keeps a file out; its last rule that fits counts.

    Args:
      path: relative, with slashes. rules: lines of .dockerignore.
    """
    ignored = False
    parts = path.split("/")
    starts = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    for rule in rules:
        pattern = rule.removeprefix("!")
        names = starts
        if pattern.startswith("**/"):
            pattern, names = pattern[3:], parts
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            ignored = not rule.startswith("!")
    return ignored


def context(tree):
    """The files of a build's context, relative paths, sorted."""
    lines = (tree / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=tree,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return sorted(path for path in files if not is_ignored(path, rules))


class Builder:
    """Builds stages in folders.

    Attributes:
      roots: dict stage -> Path of its root.
    """

    def __init__(self, folder, python, arguments, tree=ROOT):
        """Reads the Dockerfile.

        Args:
          folder: Path for the roots. python: Path of the interpreter.
          arguments: dict of build arguments. tree: Path of the context.
        """
        self.roots = {}
        self._folder, self._tree = folder, tree
        self._prefix = python.resolve().parent.parent
        self._stages = stages((tree / "Dockerfile").read_text(), arguments)
        self._arguments = arguments

    def build(self, name):
        """Builds a stage and those that it is made of; returns its settings."""
        base, body = self._stages[name]
        self.roots[name] = root = self._folder / name
        settings = {"ENV": {}, "USER": "0:0", "WORKDIR": "/", "ENTRYPOINT": []}
        if base in self._stages:
            settings = self.build(base)
            _run("cp", "-al", self.roots[base], root)
        else:
            self._begin(root)
            path = f"{self._prefix}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin"
            settings["ENV"] = {"PATH": path, "HOME": "/root"}
        values: dict[str, str] = {}
        for instruction, rest in body:
            started = time.monotonic()
            self._step(name, instruction, rest, settings, values)
            seconds = time.monotonic() - started
            print(f"{seconds:6.1f} s  {name}: {instruction} {rest[:60]}")
        return settings

    def _begin(self, root):
        """Makes the root that stands in for the base image."""
        for name in ("proc", "dev", "tmp", "root", "usr", "opt", "home"):
            (root / name).mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        _run("cp", "-a", "/etc", root / "etc")
        for name in ("passwd", "group", "shadow", "gshadow"):
            (root / "etc" / name).write_text(_without_people(name))
        (root / "tmp").chmod(0o1777)
        self._place(root, self._prefix).mkdir(parents=True, exist_ok=True)

    def _step(self, name, instruction, rest, settings, values):
        if instruction == "ARG":
            key, _, value = rest.partition("=")
            values[key] = self._arguments.get(key, value)
        elif instruction == "ENV":
            for word in shlex.split(rest):
                key, _, value = word.partition("=")
                settings["ENV"][key] = substitute(value, settings["ENV"])
        elif instruction in ("ENTRYPOINT", "CMD"):
            settings[instruction] = json.loads(rest)
        elif instruction in ("USER", "WORKDIR"):
            settings[instruction] = rest
            if instruction == "WORKDIR":
                place = self._place(self.roots[name], rest)
                place.mkdir(parents=True, exist_ok=True)
        elif instruction == "COPY":
            self._copy(name, rest.split(), settings)
        elif instruction == "RUN":
            is_list = rest.startswith("[")
            words = json.loads(rest) if is_list else ["/bin/sh", "-c", rest]
            self.run(name, words, settings, values)
        else:
            raise ValueError(f"No step is known for {instruction} {rest}.")

    def _copy(self, name, words, settings):
        *sources, target = [w for w in words if not w.startswith("--")]
        start = pathlib.PurePosixPath(settings["WORKDIR"]) / target
        place = self._place(self.roots[name], start)
        other = [w.partition("=")[2] for w in words if w.startswith("--from=")]
        if other:
            if other[0] not in self.roots:
                self.build(other[0])
            source = self._place(self.roots[other[0]], sources[0])
            place.parent.mkdir(parents=True, exist_ok=True)
            _run("cp", "-al", source, place)
            return
        for path in context(self._tree):
            if sources == ["."]:
                to = place / path
            elif any(fnmatch.fnmatchcase(path, rule) for rule in sources):
                to = place / pathlib.PurePosixPath(path).name
            else:
                continue
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self._tree / path, to)

    def _place(self, root, path):
        """A path of a stage as it is seen from outside."""
        return root / str(path).lstrip("/")

    def run(self, name, words, settings, values=None):
        """Runs a command in a stage, as its user, in a namespace of its own."""
        root = self.roots[name]
        user, _, group = settings["USER"].partition(":")
        kept = {k: v for k, v in os.environ.items() if _PASSED.match(k)}
        home = "/root" if user == "0" else settings["WORKDIR"]
        env = {**kept, **settings["ENV"], **(values or {}), "HOME": home}
        inside = f"cd {shlex.quote(settings['WORKDIR'])} && exec "
        inside += shlex.join(words)
        mounts = [
            f"mount --bind -o ro {shlex.quote(source)} {shlex.quote(str(to))}"
            for source, to in (
                ("/usr", root / "usr"),
                (str(self._prefix), self._place(root, self._prefix)),
            )
        ]
        mounts += [f"mount --rbind /dev {root}/dev"]
        mounts += [f"mount -t proc proc {root}/proc"]
        chroot = ["chroot", f"--userspec={user}:{group or user}", str(root)]
        chroot += ["/usr/bin/env", "-i", *(f"{k}={v}" for k, v in env.items())]
        chroot += ["/bin/sh", "-c", inside]
        script = " && ".join([*mounts, f"exec {shlex.join(chroot)}"])
        _run("unshare", "--mount", "--pid", "--fork", "sh", "-c", script)


def _without_people(name):
    """A file of /etc on users, without those that a base image has not."""
    people = {
        user.pw_name for user in pwd.getpwall() if 1000 <= user.pw_uid < 65534
    }
    lines = pathlib.Path("/etc", name).read_text().splitlines(keepends=True)
    return "".join(x for x in lines if x.partition(":")[0] not in people)


def _run(*words):
    subprocess.run(list(map(str, words)), check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="cpu", help="stage to build")
    parser.add_argument("--python", required=True, type=pathlib.Path)
    parser.add_argument("--lane", default="2.15", help="2.15 or current")
    options = parser.parse_args()
    if os.getuid():
        parser.error("chroot and mounts need root: start it with sudo.")
    arguments = {"LANE": options.lane}
    with tempfile.TemporaryDirectory(prefix="moco-tf-image-") as folder:
        builder = Builder(pathlib.Path(folder), options.python, arguments)
        settings = builder.build(options.target)
        entry = settings["ENTRYPOINT"]
        for words in (["--version"], _TRAINING):
            builder.run(options.target, [*entry, *words], settings)
        home = builder.roots[options.target] / "home/moco/runs/first"
        owner = (home / "config.json").stat().st_uid
        size = subprocess.run(
            ["du", "-sh", builder.roots[options.target]],
            capture_output=True,
            text=True,
        ).stdout.split()[0]
        print(f"done: the run is of user {owner}; its root has {size}")


if __name__ == "__main__":
    main()
