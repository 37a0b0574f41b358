import csv
import json

import pytest

from moco_tf.cli import main as cli
from moco_tf.evaluation import embeddings
from tests import shallow
from tests.evaluation import small_encoder

_network = shallow.fixture()


@pytest.fixture(name="workdir", scope="module")
def _workdir(tmp_path_factory):
    return small_encoder.write(tmp_path_factory.mktemp("run"))


def test_knn_linear_and_embed_share_features(workdir, capsys):
    assert cli.run(["knn", f"--workdir={workdir}", "--k=3,5"]) == 0
    stored = sorted((workdir / "features").iterdir())
    assert len(stored) == 2
    linear = [
        "linear",
        f"--workdir={workdir}",
        "--config.train.batch_size=8",
        "--config.train.epochs=3",
        "--config.schedule.milestones=2",
    ]
    assert cli.run(linear) == 0
    embedded = workdir / "train.npz"
    train = f"--source=folder:{workdir.parent / 'train'}"
    words = ["embed", f"--workdir={workdir}", train, f"--path={embedded}"]
    assert cli.run(words) == 0
    assert sorted((workdir / "features").iterdir()) == stored
    assert len(embeddings.load(embedded).index) == 40
    result = json.loads((workdir / "linear" / "result.json").read_text())
    assert result["images"] == 10
    out = capsys.readouterr().out
    assert "kNN top-1" in out
    assert "have not changed by one bit" in out


def test_neighbours_reads_the_file_that_embed_wrote(workdir, tmp_path):
    path = tmp_path / "train.parquet"
    train = f"--source=folder:{workdir.parent / 'train'}"
    assert (
        cli.run(["embed", f"--workdir={workdir}", train, f"--path={path}"]) == 0
    )
    words = [
        "neighbours",
        f"--bank={path}",
        f"--csv={tmp_path / 'near.csv'}",
        f"--grid={tmp_path / 'near.png'}",
        "--names=dark/0.png,light/3.png",
        "--k=2",
    ]
    assert cli.run(words) == 0
    with open(tmp_path / "near.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["query"] for row in rows] == (
        ["dark/0.png"] * 2 + ["light/3.png"] * 2
    )
    assert (tmp_path / "near.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "words, status, message",
    [
        (["knn"], 1, "by --workdir or by --saved_model"),
        (["linear", "--saved_model=x"], 2, "--output must be given"),
        (["knn", "--plot=a.png"], 2, "--plot needs the --workdir"),
        (["knn", "--features=none"], 2, "--features must be one of backbone"),
        (["finetune"], 2, "--workdir must be given"),
        (["embed", "--workdir=x"], 2, "--source and --path must be given"),
        (["neighbours", "--bank=x"], 2, "--csv must be given"),
        (["linear", "--workdir=x", "--config=moco_cifar10"], 2, "probe.way"),
        (["linear", "--workdir=x", "--config.probe.ways=1"], 2, "'probe.way'"),
    ],
)
def test_a_missing_or_wrong_flag_is_named(words, status, message, capsys):
    assert cli.run(words) == status
    assert message in capsys.readouterr().err


def test_the_figures_of_a_run_are_drawn_against_knn(workdir, tmp_path, capsys):
    (tmp_path / "metrics.csv").write_text(
        "step,epoch,knn_backbone,knn_projection,alignment,uniformity,"
        "effective_rank,feature_norm\n"
        "4,1,0.3,0.2,0.5,-1.5,20.0,3.0\n8,2,0.4,0.3,0.4,-1.7,30.0,3.5\n"
    )
    picture = tmp_path / "plot.png"
    words = ["knn", f"--workdir={tmp_path}", f"--plot={picture}"]
    assert cli.run(words) == 0
    assert "drew 2 epochs" in capsys.readouterr().out
    assert picture.stat().st_size > 1000


def test_each_training_command_lists_its_configurations(capsys):
    for command in ("linear", "finetune"):
        assert cli.run([command, "--help"]) == 0
        assert f"Configurations: {command}\n" in capsys.readouterr().out
