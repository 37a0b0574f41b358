r"""Records what the program does, so that a refactoring can be held against it.

python tools/behaviour.py record BEFORE
python tools/behaviour.py record AFTER --resume BEFORE/old_checkpoint
python tools/behaviour.py compare BEFORE AFTER

A record is a folder a part, of texts (.txt) and tensors (.npz). A part whose
folder exists is left as it is: delete the folder to record it anew. What is
recorded goes through the command line and through files alone (and through
`moco_tf.config.load`), so modules may be renamed and merged between two
records. `--checkout` records another checkout than this one, with the Python
that runs this script. Runs are tiny and on the CPU: tensors are compared bit by
bit on one machine; on another, the largest difference says more.

Left out or replaced by "#", since they differ by nature: times, rates, memory,
dates, paths and pictures.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import recorded_files

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECONDS = 600  # of one command
COMMANDS = (
    "pretrain knn linear finetune embed neighbours import-weights "
    "export-weights export convert benchmark prepare doctor report"
).split()
TINY = """
data.source=shapes:test data.image_size=32 data.threads=2
model.backbone=resnet18 model.width=0.125 model.dim=16 model.bn_groups=2
train.batch_size=8 train.max_steps=3 log.every_steps=1 log.tensorboard=false
knn.bank= knn.query=
"""
_SYNCED = "model.bn_groups=1 model.hidden=16"
_CROPS = "data.small_views=2 data.small_size=16"
_SWAV = f"{_SYNCED} {_CROPS} swav.prototypes=6 swav.epsilon=0.5"
_QUEUE = "moco.queue_size=37"
_STEM = "model.stem=imagenet"  # the only one of all layouts of weights
# Run -> preset, fields beside TINY, flags. The micro-batches of a step divide
# the groups of a replica: with two of them on two replicas, four groups.
METHODS = {
    "moco_v1": ("moco_v1_imagenet", _QUEUE),
    "moco_symmetric": ("moco_v2_imagenet", f"{_QUEUE} moco.symmetric=true"),
    "moco_two_replicas": (
        "moco_v2_imagenet",
        f"{_QUEUE} model.bn_groups=4 train.micro_batches=2",
        "--devices=cpu:2",
    ),
    "moco_other_options": (
        "moco_cifar10",
        f"{_QUEUE} moco.mask_same_image=true moco.shuffle=gather "
        "data.augment_on=device model.recompute=true "
        "train.precision=mixed_bfloat16",
        "--devices=cpu:2",
        "--deterministic",
    ),
    "memory_bank": ("memory_bank_imagenet", "memory_bank.negatives=16"),
    "end_to_end": ("end_to_end_imagenet", ""),
    "simclr": ("simclr_imagenet", _SYNCED),
    "byol": ("byol_imagenet", _SYNCED),
    "swav": ("swav_imagenet", _SWAV),
    "swav_queue": (
        "swav_small_batch",
        f"{_SWAV} swav.queue_size=11 swav.queue_from_epoch=0",
    ),
    "dino": ("dino_imagenet", f"{_SYNCED} {_CROPS} dino.outputs=12"),
    "cmc": ("cmc_imagenet", "cmc.negatives=16"),
    "cpc": ("cpc_imagenet", "cpc.negatives=32 cpc.rows=2 model.patch=8"),
}
# Command lines that are refused, "@" for an empty folder's path.
WRONG = """
pretrian
pretrain
pretrain --confg=x
pretrain --k=3
pretrain --config=quickstart
pretrain --config=quickstrt --workdir=@
pretrain --config=@/none.py --workdir=@
pretrain --config=quickstart --workdir=@ --config.moco.queue=8
pretrain --config=quickstart --workdir=@ --config.seed
pretrain --config=quickstart --workdir=@ --config.train.epochs=many
pretrain --config=quickstart --workdir=@ --config.moco.temperature=-1
pretrain --config=quickstart --workdir=@ --config.model.head=mpl
pretrain --config=quickstart --workdir=@ --config.method=byol
pretrain --config=quickstart --workdir=@ --config.model.backbone=resnet19
pretrain --config=quickstart --workdir=@ --config.train.batch_size=7
pretrain --config=quickstart --workdir=@ --config.model.input=pair
pretrain --config=quickstart --workdir=@ --config.data.source=folder:@/none
pretrain --config=quickstart --workdir=@ --config.knn.query=
pretrain --config=quickstart --workdir=@ --start_timeout=-1
pretrain --config=quickstart --workdir=@ --profile_steps=5
pretrain --config=quickstart --workdir=@ --cluster=some
pretrain --config=quickstart --workdir=@ --devices=tpu
pretrain --config=moco_cifar10 --workdir=@
knn
knn --workdir
knn runs/x
knn --workdir=@
knn --workdir=@ --k=1,a
knn --workdir=@ --config.seed=1
linear --saved_model=@
linear --workdir=@ --config.probe.ways=1
linear --workdir=@ --config=moco_cifar10
finetune
finetune --workdir=@ --config.data.labels=2
embed --workdir=@
neighbours --bank=@
export --workdir=@ --version=one
convert --model=@ --to=torch
import-weights --path=@/none --workdir=@
prepare --path=@
doctor --config=quickstart --prove=perhaps
report
report --workdir=@ --images=many
report --workdir=@
"""
_UNITS = "s|ms|min|h|kB|MB|GB|TB|GFLOP/s|GFLOP|images/s|bytes|MiB|GiB"
_CHANGING = (
    (r"left +\S+ (s|min|h)\b", "left #"),
    (rf"\d[\d,.]*(e[+-]?\d+)?( ?({_UNITS})\b)", r"#\2"),
    (r"\b\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d)?(\.\d+)?Z?)?", "DATE"),
    (r"input wait +\S+ %", "input wait # %"),
    (r"(tfevents\.)\S+", r"\1#"),
    (r"(images per second|waiting for images)\n[\d.,]+( %)?", r"\1\n#"),
    (r'("sha256_of_this": )"\w+"', r"\1#"),  # of the source's path too
    (r"\S+ images per second; .*", "# images per second"),
    (r"\b(step|input)-bound:?", "#-bound"),
)


def overrides(*texts):
    """Flags of "section.field=value" in texts; of a field, the last one."""
    pairs = (word.split("=", 1) for text in texts for word in text.split())
    return [f"--config.{name}={value}" for name, value in dict(pairs).items()]


class Record:
    """A part while it is recorded: its folder, and one for its runs."""

    def __init__(self, folder, checkout, resume):
        """Makes both folders; the part's has a dot until it is complete."""
        self.final, self.checkout, self.resume = folder, checkout, resume
        self.folder = folder.parent / f".{folder.name}"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.runs = self.folder / "runs"
        self.runs.mkdir(parents=True)

    def finish(self):
        """Drops the runs; the part's folder gets its name."""
        shutil.rmtree(self.runs)
        self.folder.rename(self.final)

    def text(self, name, text):
        """Keeps a text, without what differs by nature."""
        (self.folder / f"{name}.txt").write_text(self.plain(text) + "\n")

    def plain(self, text):
        """Paths and what differs by nature, replaced."""
        for path, word in ((self.runs, "RUNS"), (self.checkout, "CHECKOUT")):
            text = text.replace(str(path), word)
        for pattern, word in _CHANGING:
            text = re.sub(pattern, word, text)
        return text

    def tensors(self, name, arrays):
        """Keeps arrays by name."""
        with open(self.folder / f"{name}.npz", "wb") as file:
            np.savez_compressed(file, **arrays)

    def python(self, *words):
        """Runs the checkout's Python code; returns the ended process."""
        return subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=self.checkout,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    def command(self, *words):
        """Runs the command line; returns what it wrote, and its status."""
        ended = self.python("-m", "moco_tf", *words)
        shown = " ".join(map(str, words))
        return (
            f"$ moco-tf {shown}\nstatus {ended.returncode}\n{ended.stdout}"
            f"--- standard error\n{ended.stderr}"
        )

    def step(self, name, *words):
        """Runs a command that should work, and keeps what it wrote."""
        written = self.command(*words)
        self.text(name, written)
        if "\nstatus 0\n" not in written:
            print(f"  {name} failed:\n{written[-500:]}", file=sys.stderr)

    def pretrain(self, name, preset, fields, *flags):
        """Keeps a run's output and what its workdir holds; returns the path."""
        workdir = self.runs / name
        words = overrides(fields)
        where = [f"--config={preset}", f"--workdir={workdir}"]
        self.step(name, "pretrain", *where, *words, *flags)
        self.keep_run(name, workdir)
        return workdir

    def keep_run(self, name, workdir):
        """Keeps a run's names of files, texts and newest checkpoint."""
        self.keep_files(f"{name}.files", workdir)
        self.tensors(
            f"{name}.checkpoint", recorded_files.newest_tensors(workdir)
        )

    def keep_files(self, name, folder):
        """Keeps a folder's list of files, and those that hold text."""
        parts = []
        for path in sorted(pathlib.Path(folder).rglob("*")):
            if path.is_file():
                inner = path.relative_to(folder).as_posix()
                parts.append(f"== {inner}\n{recorded_files.readable(path)}")
        self.text(name, "\n".join(parts))


_FLATTEN = """
import sys
from moco_tf import config

def flat(tree, prefix=""):
    for key, value in tree.items():
        if hasattr(value, "items"):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key} = {value!r}"

print(*sorted(flat(config.load(sys.argv[1], {}, sys.argv[2]))), sep="\\n")
"""
_OWN_FILE = """
import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    values = VALUES
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        if section and section not in config:
            config[section] = ml_collections.ConfigDict()
        (config[section] if section else config)[key] = value
    return config
"""


def presets(record):
    """The merged values of every preset, and of a whole file of a user's."""
    for path in sorted((record.checkout / "configs").glob("[!_]*.py")):
        command = path.stem if path.stem in COMMANDS else "pretrain"
        ended = record.python("-c", _FLATTEN, path.stem, command)
        record.text(path.stem, ended.stdout + ended.stderr)
    lines = (record.folder / "quickstart.txt").read_text().split("\n")
    pairs = [line.split(" = ", 1) for line in lines if " = " in line]
    values = ", ".join(f"{name!r}: {value}" for name, value in pairs)
    own = record.runs / "own.py"
    own.write_text(_OWN_FILE.replace("VALUES", f"{{{values}}}"))
    ended = record.python("-c", _FLATTEN, own, "pretrain")
    record.text("own_file", ended.stdout + ended.stderr)


def help_texts(record):
    """What --help writes, and how more than forty wrong lines are refused."""
    for name in COMMANDS:
        record.text(name, record.command(name, "--help"))
    for word in ("--help", "--version"):
        record.text(f"moco-tf{word}", record.command(word))
    refused = []
    for place, line in enumerate(WRONG.strip().splitlines()):
        empty = record.runs / str(place)
        empty.mkdir()
        refused.append(
            record.command(*line.replace("@", str(empty)).split()).replace(
                str(empty), "@"
            )
        )
    record.text("refused", "\n".join(refused))


def quickstart(record):
    """Twenty steps of the quickstart as it is, with its kNN beforehand."""
    fields = "train.max_steps=20 log.every_steps=5"
    record.pretrain("quickstart", "quickstart", fields)


def methods(record):
    """Three steps of every method."""
    for name, (preset, fields, *flags) in METHODS.items():
        record.pretrain(name, preset, TINY + fields, *flags)


def old_checkpoint(record):
    """A run of six steps, and one that stopped at three and went on.

    Keeps the stopped run's workdir. With --resume the run that goes on is that
    of another record, which another version of the program began.
    """
    fields = f"{TINY} {_QUEUE} train.max_steps=6"
    whole = record.pretrain("uninterrupted", "moco_cifar10", fields)
    half = f"{fields} train.max_steps=3"
    stopped = record.pretrain("stopped", "moco_cifar10", half)
    shutil.copytree(stopped, record.folder / "stopped_run")
    before = (record.resume or record.folder) / "stopped_run"
    resumed = record.runs / "resumed"
    shutil.copytree(before, resumed)
    record.pretrain("resumed", "moco_cifar10", fields)
    pair = map(recorded_files.newest_tensors, (whole, resumed))
    counters = re.compile("_train_counter|save_counter")  # of this process
    lines = [
        line
        for line in recorded_files.different_tensors(*pair)
        if not counters.search(line)
    ]
    record.text("agreement", "\n".join(lines or ["the same bits"]))


def write_images(folder, count, seed):
    """Two class folders of noisy 40 x 36 PNG images, bright and dark."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    for number in range(count):
        kind = ("bright", "dark")[number % 2]
        (folder / kind).mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 60, (36, 40, 3), dtype=np.uint8)
        pixels = noise + np.uint8(150 if kind == "bright" else 20)
        Image.fromarray(pixels).save(folder / kind / f"{number:03d}.png")
    return f"folder:{folder}"


def evaluation(record):
    """All commands that follow a pre-training, on a tiny run of MoCo."""
    train = write_images(record.runs / "train", 40, 0)
    test = write_images(record.runs / "test", 20, 1)
    fields = (
        f"{TINY} {_QUEUE} {_STEM} data.source={train} knn.bank={train} "
        f"knn.query={test} knn.k=5 knn.baseline=true train.epochs=2 "
        "train.max_steps=0 log.every_steps=2 log.tensorboard=true"
    )
    run = record.pretrain("run", "moco_cifar10", fields)
    encoder = f"--workdir={run}"
    judge(record, encoder, run)
    embeddings(record, encoder, test)
    serve(record, encoder, run, test)
    weights(record, encoder)
    report = record.runs / "report.html"
    record.step("report", "report", encoder, f"--path={report}")
    record.text("report.page", recorded_files.page_text(report))
    around(record, train)


def judge(record, encoder, run):
    """kNN, both linear probes and fine-tuning."""
    knn = ("--k=3,5", "--temperature=0.1,0.5", "--baselines")
    record.step("knn", "knn", encoder, *knn)
    tiny = ("--config.train.epochs=3", "--config.train.batch_size=8")
    steps = "--config.schedule.milestones=2"
    record.step("linear", "linear", encoder, *tiny, steps)
    record.keep_files("linear.files", run / "linear")
    published = record.runs / "published"
    record.step(
        "linear_published",
        "linear",
        encoder,
        *tiny,
        steps,
        "--config.probe.way=published",
        f"--output={published}",
    )
    record.keep_files("linear_published.files", published)
    record.step(
        "finetune",
        "finetune",
        encoder,
        "--config.train.epochs=1",
        "--config.train.batch_size=8",
        "--config.augment.mixup=0.2",
        "--config.augment.rand_augment=0.3",
    )
    record.keep_files("finetune.files", run / "finetune")
    for folder in (run / "linear", published, run / "finetune"):
        record.tensors(
            f"{folder.name}.arrays", recorded_files.stored_arrays(folder)
        )


def embeddings(record, encoder, source):
    """Both files of embeddings, and the neighbours in one."""
    import pyarrow.parquet

    npz, parquet = record.runs / "e.npz", record.runs / "e.parquet"
    for path in (npz, parquet):
        words = (encoder, f"--source={source}", f"--path={path}")
        record.step(f"embed_{path.suffix[1:]}", "embed", *words)
    arrays = {}
    with np.load(npz, allow_pickle=False) as file:
        arrays |= {f"npz/{name}": file[name] for name in file.files}
    table = pyarrow.parquet.read_table(parquet)
    about = [f"{k!r}: {v!r}" for k, v in table.schema.metadata.items()]
    plain = table.schema.remove_metadata().to_string()
    record.text("embed_parquet.schema", "\n".join([plain, *sorted(about)]))
    for name in table.column_names:
        arrays[f"parquet/{name}"] = np.array(table[name].to_pylist())
    record.text(
        "embed_about",
        "\n".join(str(v) for v in arrays.values() if v.dtype.kind == "U"),
    )
    numbers = {k: v for k, v in arrays.items() if v.dtype.kind != "U"}
    record.tensors("embed", numbers)
    near = record.runs / "near"
    near.mkdir()
    outputs = (f"--csv={near / 'near.csv'}", f"--grid={near / 'near.png'}")
    record.step("neighbours", "neighbours", f"--bank={npz}", "--k=2", *outputs)
    record.keep_files("neighbours.files", near)


def serve(record, encoder, run, bank):
    """An export with classes and neighbours, and its TFLite form."""
    words = (f"--head={run / 'linear' / 'linear.npz'}", f"--bank={bank}")
    record.step("export", "export", encoder, *words)
    record.keep_files("export.files", run / "export")
    versions = run / "export" / "encoder"
    lite = record.runs / "encoder.tflite"
    words = ("--to=tflite", f"--path={lite}", f"--images={bank}")
    record.step("convert", "convert", f"--model={versions}", *words)
    signatures, arrays = recorded_files.served(versions / "1")
    record.text("signatures", "\n".join(signatures))
    record.tensors("served", arrays)
    record.tensors("tflite", recorded_files.lite_outputs(lite))


def weights(record, encoder):
    """Weights in three layouts, and runs made of them."""
    names = {"moco": "m.pth.tar", "torchvision": "t.pth", "detectron2": "d.pkl"}
    sums = []
    for layout, name in names.items():
        path = record.runs / name
        words = (encoder, f"--path={path}", f"--layout={layout}")
        record.step(f"export_{layout}", "export-weights", *words)
        sums.append(f"{name} {recorded_files.checksum(path)}")
        back = record.runs / f"imported_{layout}"
        fields = overrides(TINY, _QUEUE, _STEM)
        where = (f"--path={path}", f"--workdir={back}", "--config=moco_cifar10")
        record.step(f"import_{layout}", "import-weights", *where, *fields)
        record.keep_run(f"import_{layout}", back)
    record.text("weights.sums", "\n".join(sums))


def around(record, source):
    """What needs no run: doctor, prepare, benchmark."""
    folder = pathlib.Path(source.partition(":")[2])
    ill = record.runs / "ill"
    shutil.copytree(folder, ill)
    shutil.copy(ill / "dark" / "001.png", ill / "dark" / "twin.png")
    whole = (ill / "dark" / "003.png").read_bytes()
    (ill / "dark" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (ill / "bright" / "text.jpg").write_bytes(b"no image")
    words = overrides(TINY, f"data.source=folder:{ill} moco.queue_size=16")
    doctor = record.runs / "doctor.json"
    faults = record.runs / "faults"
    faults.mkdir()
    outputs = (f"--json={doctor}", f"--path={faults / 'faults.csv'}")
    preset = "--config=moco_cifar10"
    record.command("doctor", preset, "--trial_steps=2", *words, *outputs)
    table = json.loads(doctor.read_text())
    rows = [f"{row['check']}: {row['verdict']}" for row in table["checks"]]
    record.text("doctor", "\n".join([*rows, json.dumps(table["images"])]))
    record.keep_files("doctor.faults", faults)
    cache = record.runs / "cache"
    words = (f"--source=folder:{ill}", f"--path={cache}", "--short_side=24")
    record.step("prepare", "prepare", *words, "--verify")
    record.keep_files("prepare.files", cache)
    sums = [
        f"{p.name} {recorded_files.checksum(p)}"
        for p in sorted(cache.glob("*.bin"))
    ]
    record.text("prepare.sums", "\n".join(sums))
    words = overrides(TINY, _QUEUE)
    written = record.command("benchmark", preset, "--steps=1", *words)
    labels = [line.split(" ")[0] for line in written.splitlines()[2:]]
    record.text("benchmark", "\n".join(labels))


PARTS = {
    "presets": presets,
    "help": help_texts,
    "old_checkpoint": old_checkpoint,
    "quickstart": quickstart,
    "methods": methods,
    "evaluation": evaluation,
}


def main():
    """Returns the exit status: 1 if `compare` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record", help="record parts into a folder")
    record.add_argument("folder", type=pathlib.Path)
    record.add_argument("--checkout", type=pathlib.Path, default=ROOT)
    record.add_argument(
        "--resume", type=pathlib.Path, help="old_checkpoint of another record"
    )
    pair = commands.add_parser("compare", help="print what differs")
    pair.add_argument("before", type=pathlib.Path)
    pair.add_argument("after", type=pathlib.Path)
    for one in (record, pair):
        one.add_argument("--only", default=",".join(PARTS), help="parts")
    options = parser.parse_args()
    names = options.only.split(",")
    if not set(names) <= PARTS.keys():
        parser.error(f"--only takes {', '.join(PARTS)}")
    if options.command == "compare":
        count = recorded_files.compare(options.before, options.after, names)
        return int(count > 0)
    os.environ |= {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "COLUMNS": "100",
    }
    for name in names:
        folder = options.folder.resolve() / name
        if folder.exists():
            print(f"{name}: recorded before")
            continue
        start = time.monotonic()
        resume = options.resume and options.resume.resolve()
        part = Record(folder, options.checkout.resolve(), resume)
        PARTS[name](part)
        part.finish()
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
