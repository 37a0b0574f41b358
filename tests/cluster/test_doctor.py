"""The doctor on two workers: they prove together, and worker 0 reports."""

import json
import subprocess
import sys

from tests.cluster import ports, shallow_doctor, small_cluster
from tests.doctor import photographs


def _start(folder, *flags):
    """Two workers on photographs; their processes."""
    workers = ",".join(ports.workers(2))
    words = [
        "--config=moco_cifar10",
        f"--config.data.source=folder:{folder}",
        "--config.knn.bank=",
        "--config.knn.query=",
        "--config.model.width=0.125",
        "--config.train.batch_size=8",
        "--config.model.bn_groups=2",
        "--config.optimizer.learning_rate=0.001",
        "--config.moco.queue_size=16",
        "--devices=cpu",
        "--trial_steps=1",
        f"--workers={workers}",
        *flags,
    ]
    module = [sys.executable, "-m", shallow_doctor.__name__]
    return [
        subprocess.Popen(
            [*module, *words, f"--worker_index={index}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in (0, 1)
    ]


def test_two_workers_prove_their_devices_together(tmp_path):
    folder = photographs.write(tmp_path / "images", 24)
    report = tmp_path / "report.json"
    processes = _start(folder, f"--report={report}")
    statuses, texts = small_cluster.finish(processes)
    assert statuses == [0, 0], texts
    assert "2 workers proved their devices together" in texts[0]
    assert "examining" not in texts[1]  # worker 0 alone reports
    value = json.loads(report.read_text())
    findings = {row["check"]: row for row in value["checks"]}
    verdicts = {name: row["verdict"] for name, row in findings.items()}
    for name in ("reference", "gather", "numbers", "resume", "workers", "time"):
        assert verdicts[name] == "ok", name
    assert (
        "over 2 replicas, 3 times (--communication=auto)"
        in (findings["gather"]["finding"])
    )
    assert "a network between hosts" in findings["not proved"]["finding"]
    assert "no network between them" in findings["workers"]["finding"]
    assert value["command"]["workers"] == 2
    assert set(value["collectives"]) == {"images", "keys", "gradient"}
    assert value["benchmarks"] == []
