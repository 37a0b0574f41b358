"""benchmarks/quickstart_seeds.py: what it wants of the figures."""

import importlib
import json
import pathlib
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(name="script", scope="module")
def _script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("quickstart_seeds")


def _rows(changed=None, **fields):
    """Lines of three seeds in three ways, one of them changed."""
    rows = []
    for way, first in (("plain", 76.0), ("threads", 77.0), ("bfloat16", 75.0)):
        for seed in (1, 2, 3):
            row = {
                "way": way,
                "seed": seed,
                "pixels": 34.4,
                "untrained": 38.0,
                "trained": first + seed,
                "steps_seconds": 100,
                "gigabytes": 2.6,
            }
            rows.append(row | (fields if changed == (way, seed) else {}))
    return rows


@pytest.mark.parametrize(
    ("changed", "fields", "wrong"),
    [
        (None, {}, []),
        (("plain", 2), {"trained": 74.9}, ["plain, seed 2: trained 74.9 %"]),
        (
            ("plain", 2),
            {"pixels": 40.1},
            ["plain, seed 2: too much is known before training"],
        ),
        (
            ("threads", 1),
            {"untrained": 45.1},
            ["other threads, seed 1: too much is known before training"],
        ),
        (
            ("threads", 3),
            {"trained": 86.5},
            ["other threads: the seeds are 8 points apart"],
        ),
    ],
)
def test_each_seed_and_the_spread_are_held_to_the_limits(
    script, capsys, changed, fields, wrong
):
    assert script.show(_rows(changed, **fields)) == wrong
    assert "plain: 3 seeds, mean" in capsys.readouterr().out


def test_the_mean_of_a_way_is_held_to_that_of_the_plain_one(script):
    rows = _rows()
    for row in rows:
        row["trained"] += 3.5 if row["way"] == "threads" else 0
    assert script.show(rows) == ["other threads: the mean is 4 points off"]


def test_a_finished_run_is_not_run_again(script, tmp_path, monkeypatch):
    ran = []

    def run(way, seed, workdir, words):
        ran.append((way, seed, words))
        return _rows()[0] | {"way": way, "seed": seed}

    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps(_rows()[0]) + "\n")
    monkeypatch.setattr(script, "run", run)
    words = ["quickstart_seeds.py", f"--results={results}", "--seeds=1,2"]
    words += ["--ways=plain,bfloat16", "--config.train.epochs=1"]
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    others = [["--config.train.epochs=1"]] * 3
    names = [("plain", 2), ("bfloat16", 1), ("bfloat16", 2)]
    assert ran == [
        (*name, more) for name, more in zip(names, others, strict=True)
    ]
    script.main()
    assert len(ran) == 3
