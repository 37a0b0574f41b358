"""Workdirs of every kind that this program writes, or earlier wrote."""

import json

from moco_tf import config as configs
from moco_tf import config_schema, workdirs
from moco_tf.evaluation import supervised
from moco_tf.methods import table
from moco_tf.monitoring import metrics_csv
from tests.reporting import small_report

# The columns that versions had: each lists what it added to those before it.
_ADDED = (
    "epoch steps loss instance_top1 learning_rate images_per_second "
    "input_wait_share unreadable epoch_loss knn_backbone knn_projection",
    "alignment uniformity effective_rank feature_norm",
    "positive hardest_negative queue_fill key_age same_image key_drift "
    "key_rank",
    "spread",
    "teacher_entropy",
    "time",
)
COLUMNS = [
    " ".join(_ADDED[: count + 1]).split() for count in range(len(_ADDED))
]
RESULT = {"top1": 0.5, "top1_low": 0.4, "top1_high": 0.6, "images": 10}


def write_rows(workdir, columns, epochs, command="pretrain"):
    """A metrics.csv of so many epochs, as a version with these columns had it.

    The rows have what a row of any version may lack: a first one without a
    speed, and kNN at the ends of epochs alone.
    """
    lines = [",".join(["step", *columns])]
    for epoch in range(1, epochs + 1):
        row = small_report.row(epoch, alignment=0.5, time=1_700_000_000 + epoch)
        if command != "pretrain":
            row |= {"top1": 0.25, "evaluated_top1": 0.5}
        if epoch == 1:
            row |= {"images_per_second": None, "epoch_loss": None}
        texts = ["" if row.get(c) is None else repr(row[c]) for c in columns]
        lines.append(",".join([str(row["step"]), *texts]))
    (workdir / "metrics.csv").write_text("\n".join(lines) + "\n")


def make_older(workdir):
    """Takes out of the records what the first version did not have."""
    path = workdir / "config.json"
    saved = json.loads(path.read_text())
    saved = {k: saved[k] for k in ("moco_tf", "data_fingerprint", "config")}
    method = saved["config"].pop("method")
    fields = table.fields(method)
    for section, values in saved["config"].items():
        if isinstance(values, dict):
            for name in list(values):
                if fields[f"{section}.{name}"].later:
                    del values[name]
    path.write_text(json.dumps(saved, indent=2))
    path = workdir / "environment.json"
    starts = json.loads(path.read_text())["starts"]
    path.write_text(json.dumps({"starts": starts}))


def write_task(folder, command, rows=True, result=True):
    """The folder of a linear probe or of a fine-tuning."""
    config = configs.load(command, {}, command)
    workdirs.save(config, folder, "12ab", command, encoder="34cd")
    if rows:
        write_rows(folder, supervised.COLUMNS, 3, command)
    if result:
        (folder / "result.json").write_text(json.dumps(RESULT))
    return folder


def write_all(root):
    """Makes one workdir of every kind below a folder; dict name -> path."""
    made = {}
    for method, entry in table.METHODS.items():
        path = root / method
        small_report.write(path, name=entry.configs[0])
        write_rows(path, metrics_csv.COLUMNS, 3)
        made[method] = path
    for version, columns in enumerate(COLUMNS):
        path = small_report.write(root / f"columns{version}")
        write_rows(path, columns, 2 + version)
        made[path.name] = path
    path = small_report.write(root / "oldest")
    write_rows(path, COLUMNS[0], 4)
    make_older(path)
    made["oldest"] = path
    path = small_report.write(root / "elsewhere", train__max_steps=7)
    starts = [{"started": "2026-01-01T00:00:00+00:00"}, {}]
    (path / "environment.json").write_text(json.dumps({"starts": starts}))
    made["elsewhere"] = path
    path = small_report.write(root / "begun")
    (path / "environment.json").unlink()
    made["begun"] = path
    for command in set(config_schema.TABLES) - {"pretrain"}:
        made[command] = write_task(root / command, command)
        made[f"{command}, begun"] = write_task(
            root / f"{command}-begun", command, result=False
        )
    made["cached"] = write_task(root / "cached", "linear", rows=False)
    return made
