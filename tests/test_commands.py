"""Every command that a page shows can be given: nothing in it has drifted.

Commands are parsed here. tests/test_tutorial.py and tests/test_pages.py run
those of the README and of docs/; the others are named below, with what runs in
their place. Figures of benchmarks/ and docs/results take hours.
"""

import ast
import os
import pathlib
import re
import shlex

import pytest

from moco_tf import config as configs
from moco_tf.cli import flags
from moco_tf.cli import main as cli

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "launch/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
)
# Of other programs, and why no test gives them as they stand.
OTHERS = {
    "sbatch": "needs Slurm; launch_scripts/test_slurm.py takes a stand-in",
    "docker": "needs its daemon; launch_scripts/test_image.py reads the file",
    "kubectl": "needs a cluster; test_kubernetes.py reads the files",
    "pip": "needs the network; test_packaging.py compares the versions",
    "pip-audit": "asks a server; test_security.py reads the locks",
    "curl": "test_tutorial.py sends the same request to a server",
    "tensorboard": "opens a server; test_tensorboard.py reads its files",
    "ruff": "is the linter's own command",
    "mypy": "is the type checker's own; test_types.py runs it",
    "cmp": "is the system's own",
    "printf": "is the system's own",
    "base64": "is the system's own",
    "git": "is the developer's own",
}
# A reader puts these in: what stands in their place here.
PLACEHOLDERS = {
    "--config=NAME": "--config=quickstart",
    "--config=mine.py": f"--config={ROOT / 'configs' / 'quickstart.py'}",
}
PROGRAMS = ("moco-tf", "python", "launch/", "benchmarks/", *OTHERS)


def lines(text):
    """(line, whether it is one of a shell's) of a page."""
    blocks = re.findall(r"^```(sh|)\n(.*?)^```$", text, re.M | re.S)
    for language, block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"\s+#.*$", "", line)
            line = re.sub(r" > \S+", "", line)  # where its output goes
            for part in re.split(r" \| | &&(?: |$)|; ", line):
                yield part, language == "sh"
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    for code in re.findall(r"`([^`\n]+)`", text):
        if " " in code:
            yield code, False


def commands():
    """(page, words) of every command; .venv/bin/ before a program left out."""
    for page in PAGES:
        for line, of_shell in lines(page.read_text()):
            line = line.strip().removeprefix(".venv/bin/").lstrip("(")
            if line.startswith(PROGRAMS) or of_shell:
                words = shlex.split(line, comments=True)
                words = [PLACEHOLDERS.get(word, word) for word in words]
                # Words of capitals stand for more flags.
                words = [w for w in words if not re.fullmatch("[A-Z]+", w)]
                if words:
                    yield str(page.relative_to(ROOT)), words


COMMANDS = list(commands())


def check(words):
    """Refuses a command that does not exist or has a flag that does not."""
    program = words[0].removeprefix(".venv/bin/")
    if program == "moco-tf":
        check_moco_tf(words[1:])
    elif program == "python" and words[1] == "-m":
        return  # a program of another package, as pytest or bazel
    elif program == "python" and words[1] == "-X":
        assert words[3] == "-c"  # Python's own report of a line of code
        compile(words[4], "shown", "exec")
    elif program == "python" or program.startswith(("launch/", "benchmarks/")):
        check_script(words[1:] if program == "python" else words)
    else:
        assert program in OTHERS, f"{program} is not in OTHERS"
        if "launch/slurm.sbatch" in words:
            start = words.index("launch/slurm.sbatch") + 1
            check_moco_tf(["pretrain", *words[start:]])


def check_moco_tf(words):
    if not words or words[0] == "COMMAND" or words[0].startswith("-"):
        return
    try:
        name, options, overrides = flags.parse(words, cli.COMMANDS)
    except flags.UsageError as error:
        # A sentence may show the flags that it is about, and no others.
        if not str(error).endswith("must be given."):
            raise
        missing = re.findall(r"--\w+", str(error))
        check_moco_tf([*words, *(f"{flag}=quickstart" for flag in missing)])
        return
    if options.help:
        return  # an answer that needs no configuration
    if "config" in options and name != "import-weights":
        table = name if name in configs.config_schema.TABLES else "pretrain"
        chosen = name == "pretrain" or (name == "doctor" and not options.report)
        named = options.config or configs.AUTO
        # What a run has kept of a choice has the fields of any choice.
        if chosen and (named == configs.AUTO or named.endswith("/preset.py")):
            configs.load(configs.auto_base(overrides), overrides)
        elif options.config or table == name:
            configs.load(options.config or name, overrides, table)
        else:  # as the doctor does for a report
            assert not overrides, "fields without --config"


def check_script(words):
    path = ROOT / words[0]
    assert path.exists(), words[0]
    script_flags, _, inner = " ".join(words[1:]).partition(" -- ")
    if inner:
        check(inner.split())
    if path.suffix == ".sh":
        assert os.access(path, os.X_OK), path
    if path.suffix != ".py":
        return
    known = constants(path)
    others = [word for word in script_flags.split() if word[:2] == "--"]
    others = [word for word in others if word.partition("=")[0] not in known]
    if others and "parse_known_args" in known:  # it hands them on
        check_moco_tf(["pretrain", *others])
        return
    assert not others, f"{words[0]} has no {others[0]}"


def constants(path):
    """Text and attributes in a script and the modules that it takes beside."""
    known = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            known.add(node.value)
        if isinstance(node, ast.Attribute):
            known.add(node.attr)
        if isinstance(node, ast.ImportFrom | ast.Import):
            for alias in node.names:
                beside = path.parent / f"{alias.name}.py"
                if beside.is_file():
                    known |= constants(beside)
    return known


@pytest.mark.parametrize("page", sorted({page for page, _ in COMMANDS}))
def test_the_commands_of_a_page_are_understood(page):
    for words in (words for shown, words in COMMANDS if shown == page):
        try:
            check(words)
        except (AssertionError, ValueError, flags.UsageError) as error:
            raise AssertionError(f"{shlex.join(words)}: {error}") from error


def test_pages_show_commands_of_every_kind():
    shown = {words[0] for _, words in COMMANDS}
    assert {"moco-tf", "python", "sbatch"} <= shown
    commands = {w[1] for _, w in COMMANDS if w[0] == "moco-tf" and len(w) > 2}
    assert commands >= set(cli.COMMANDS)


def test_every_benchmark_is_named_on_its_page():
    text = (ROOT / "benchmarks" / "README.md").read_text()
    for path in (ROOT / "benchmarks").glob("*.py"):
        if 'if __name__ == "__main__":' in path.read_text():
            assert path.name in text, path.name


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("moco-tf pretrian --workdir=x", "no command 'pretrian'"),
        ("moco-tf knn --workdirs=x", "no flag --workdirs"),
        ("moco-tf pretrain --workdir=x --config=moco_v3", "moco_v3"),
        ("moco-tf linear --workdir=x --config.moco.dim=1", "moco.dim"),
        ("python benchmarks/scalings.py", "benchmarks/scalings.py"),
        ("python benchmarks/scaling.py --round=1", "has no --round=1"),
        (
            "python benchmarks/scaling.py --config.seed=1",
            "has no --config.seed",
        ),
        ("sbatch launch/slurm.sbatch --confg=quickstart", "no flag --confg"),
        ("make all", "make is not in OTHERS"),
    ],
)
def test_what_has_drifted_is_seen(line, message):
    errors = (AssertionError, ValueError, flags.UsageError)
    with pytest.raises(errors, match=message):
        check(line.split())
