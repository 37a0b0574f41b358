"""Forms of TF_CONFIG; TensorFlow's own resolver is the authority."""

import json
import os

import pytest
import tensorflow as tf

from moco_tf.cluster import membership, tf_config

ALONE = [
    "{}",
    " {} ",
    '{"environment": "cloud"}',
    '{"cluster": {}}',
    '{"cluster": {}, "task": {}}',
    '{"task": {"type": "worker", "index": 0}}',
    '{"cluster": {}, "task": {"type": "worker", "index": 0}}',
    '{"cluster": {"worker": ["a:1"]}}',
    '{"cluster": {"chief": ["a:1"]}}',
    '{"cluster": {"worker": ["localhost"]}}',
    '{"cluster": {"worker": {"0": "a:1"}}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"index": "0"}}',
    '{"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
    '{"cluster": {"master": ["a:1"]}, "task": {"type": "master", "index": 0}}',
    '{"cluster": {"worker": ["a:1"]}, "rpc_layer": "grpc", "job": {}}',
]  # fmt: skip


@pytest.mark.parametrize("text", ALONE)
def test_what_tensorflow_takes_for_one_process_is_one(text, monkeypatch):
    assert membership.find({"TF_CONFIG": text}) is None
    monkeypatch.setitem(os.environ, "TF_CONFIG", text)
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    assert resolver.master() == ""  # TensorFlow's sign of one process
    assert resolver.task_id in (None, 0)


@pytest.mark.parametrize("text", ["", "  ", '{"cluster": {"worker": []}}'])
def test_an_empty_text_says_nothing(text):
    assert tf_config.read(text) is None


@pytest.mark.parametrize(
    "cluster",
    [
        {"worker": ["a:1", "b:1"]},
        {"chief": ["a:1"], "worker": ["b:1"]},
        {"master": ["a:1"], "worker": ["b:1"]},
        {"worker": {"1": "b:1", "0": "a:1"}},
        {"chief": {"0": "a:1"}, "worker": ["b:1"], "ps": []},
        {"chief": ["a:1"], "worker": ["b:1"], "evaluator": ["c:1"]},
    ],
)
def test_the_workers_are_those_of_tensorflow(cluster, monkeypatch):
    text = {"cluster": cluster, "task": {"type": "worker", "index": 0}}
    monkeypatch.setitem(os.environ, "TF_CONFIG", json.dumps(text))
    spec = (
        tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec()
    )
    expected = [
        spec.task_address(job, index)
        for job in ("chief", "master", "worker")
        if job in spec.jobs
        for index in spec.task_indices(job)
    ]
    workers, index = tf_config.read(json.dumps(text))
    assert list(workers) == expected == ["a:1", "b:1"]
    assert workers[index] == spec.task_address("worker", 0)


TWO = {"worker": ["a:1", "b:1"]}
FIRST = {"type": "worker", "index": 0}
# What is refused, by which words, and what it is when the remedy is followed.
REFUSED = {
    "no JSON": ("{'cluster': {}}", "must be JSON", {}),
    "a list": ("[]", "must be a JSON object", {}),
    "null": ("null", "must be a JSON object", {}),
    "a cluster that is a list": (
        {"cluster": ["a:1"]},
        '"cluster" in TF_CONFIG must be an object',
        {"cluster": {"worker": ["a:1"]}},
    ),
    "a job that is a text": (
        {"cluster": {"worker": "a:1"}},
        "'worker' in TF_CONFIG must be a list",
        {"cluster": {"worker": ["a:1"]}},
    ),
    "indices with a gap": (
        {"cluster": {"worker": {"0": "a:1", "2": "b:1"}}, "task": FIRST},
        "must be 0 to 1. Received 0, 2",
        {"cluster": {"worker": {"0": "a:1", "1": "b:1"}}, "task": FIRST},
    ),
    "parameter servers": (
        {"cluster": TWO | {"ps": ["c:1"]}, "task": FIRST},
        "TF_CONFIG names c:1 as ps. Leave ps out",
        {"cluster": TWO, "task": FIRST},
    ),
    "a job of another name": (
        {"cluster": TWO | {"trainer": ["c:1"]}, "task": FIRST},
        "Received trainer. Name them worker, or leave them out",
        {"cluster": TWO, "task": FIRST},
    ),
    "two chiefs": (
        {"cluster": {"chief": ["a:1", "b:1"]}, "task": FIRST},
        "names chief a:1, chief b:1. Keep one of them, and name the others",
        {"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": FIRST},
    ),
    "a chief and a master": (
        {"cluster": {"chief": ["a:1"], "master": ["b:1"]}, "task": FIRST},
        "names chief a:1, master b:1. Keep one of them",
        {"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": FIRST},
    ),
    "a chief that is worker 0 too": (
        {"cluster": TWO | {"chief": ["a:1"]}, "task": FIRST},
        "names a:1 as chief and as worker 0. Leave it out of worker",
        {"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": FIRST},
    ),
    "a chief that the cluster lacks": (
        {"cluster": TWO, "task": {"type": "chief", "index": 0}},
        "two processes would have the same index. Name the type 'worker'",
        {"cluster": TWO, "task": FIRST},
    ),
    "a type of another name": (
        {"cluster": TWO, "task": {"type": "wroker", "index": 0}},
        "gives the type 'wroker', and the cluster has worker",
        {"cluster": TWO, "task": FIRST},
    ),
    "an evaluator": (
        {"cluster": TWO, "task": {"type": "evaluator", "index": 0}},
        "needs no evaluator",
        {"cluster": TWO, "task": FIRST},
    ),
    "no task": (
        {"cluster": TWO},
        'which of the 2 workers this process is: "task": {"type": "worker", ',
        {"cluster": TWO, "task": FIRST},
    ),
    "no index": (
        {"cluster": TWO, "task": {"type": "worker"}},
        "Add what lacks",
        {"cluster": TWO, "task": FIRST},
    ),
    "an index beyond the workers": (
        {"cluster": TWO, "task": {"type": "worker", "index": 2}},
        "index of a worker must be a whole number from 0 to 1",
        {"cluster": TWO, "task": {"type": "worker", "index": 1}},
    ),
    "an index beyond the chief": (
        {
            "cluster": {"chief": ["a:1"], "worker": ["b:1"]},
            "task": {"type": "chief", "index": 1},
        },
        "index of a chief must be a whole number from 0 to 0",
        {
            "cluster": {"chief": ["a:1"], "worker": ["b:1"]},
            "task": {"type": "chief", "index": 0},
        },
    ),
    "an index of no number": (
        {"cluster": TWO, "task": {"type": "worker", "index": "one"}},
        "Received 'one'",
        {"cluster": TWO, "task": {"type": "worker", "index": "1"}},
    ),
    "one worker, another index": (
        {"cluster": {"worker": ["a:1"]}, "task": FIRST | {"index": 1}},
        "from 0 to 0",
        {"cluster": {"worker": ["a:1"]}, "task": FIRST},
    ),
    "no workers, but an index": (
        {"task": {"type": "worker", "index": 1}},
        "Add the cluster, as in",
        {"cluster": TWO, "task": {"type": "worker", "index": 1}},
    ),
    "two workers of one address": (
        {"cluster": {"worker": ["a:1", "a:1"]}, "task": FIRST},
        "names a:1, a:1. Give workers of one host different ports",
        {"cluster": {"worker": ["a:1", "a:2"]}, "task": FIRST},
    ),
    "an address without a port": (
        {"cluster": {"worker": ["a", "b:1"]}, "task": FIRST},
        "Write, for example, a:2222",
        {"cluster": {"worker": ["a:2222", "b:1"]}, "task": FIRST},
    ),
    "a port beyond all": (
        {"cluster": {"worker": ["a:70000", "b:1"]}, "task": FIRST},
        "Write, for example, a:2222",
        {"cluster": {"worker": ["a:2222", "b:1"]}, "task": FIRST},
    ),
}


def _find(document):
    text = document if isinstance(document, str) else json.dumps(document)
    return membership.find({"TF_CONFIG": text})


@pytest.mark.parametrize("name", REFUSED)
def test_a_contradiction_is_named_and_its_remedy_works(name):
    document, words, mended = REFUSED[name]
    with pytest.raises(ValueError, match="TF_CONFIG") as error:
        _find(document)
    assert words in str(error.value)
    cluster = _find(mended)
    workers = [a for job in mended.get("cluster", {}).values() for a in job]
    assert (cluster is None) == (len(workers) < 2)
