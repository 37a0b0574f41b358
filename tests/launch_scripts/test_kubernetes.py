import json
import pathlib
import re

import pytest
import yaml

import moco_tf
from moco_tf.cluster import membership

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "launch/kubernetes"
START_AGAIN = {137, 138, 143}


def documents(name):
    """The objects of a manifest, by kind."""
    documents = yaml.safe_load_all((FOLDER / name).read_text())
    return {item["kind"]: item for item in documents}


@pytest.fixture(scope="module")
def indexed():
    return documents("indexed_job.yaml")


@pytest.fixture(scope="module")
def job(indexed):
    return indexed["Job"]["spec"]


@pytest.fixture(scope="module")
def tfjob():
    return documents("tfjob.yaml")["TFJob"]


@pytest.fixture(params=["indexed_job.yaml", "tfjob.yaml"])
def pod(request, job, tfjob):
    """The pods' specification in each manifest."""
    if request.param == "indexed_job.yaml":
        return job["template"]["spec"]
    return tfjob["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]


def environment(job):
    (container,) = job["template"]["spec"]["containers"]
    return {item["name"]: item["value"] for item in container["env"]}


def test_all_places_say_the_same_number_of_pods(job):
    assert job["completionMode"] == "Indexed"
    count = job["completions"]
    assert job["parallelism"] == count
    assert environment(job)["MOCO_WORKERS"] == str(count)
    assert job["backoffLimit"] % count == 0


def test_a_pod_finds_the_others_through_the_service(indexed, job):
    service = indexed["Service"]
    name = indexed["Job"]["metadata"]["name"]
    pod = {
        **environment(job),
        "HOSTNAME": f"{name}-2",
        "JOB_COMPLETION_INDEX": "2",
    }
    cluster = membership.find(pod)
    host, port = (
        service["metadata"]["name"],
        service["spec"]["ports"][0]["port"],
    )
    assert cluster.index == 2
    assert list(cluster.workers) == [
        f"{name}-{number}.{host}:{port}" for number in range(4)
    ]
    pod = job["template"]["spec"]
    assert pod["subdomain"] == host
    assert pod["containers"][0]["ports"][0]["containerPort"] == port


def test_the_service_names_the_pods_as_they_start(indexed, job):
    service = indexed["Service"]["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True
    assert service["selector"] == job["template"]["metadata"]["labels"]


def test_failures_end_the_job_and_the_rest_starts_again(job):
    fail, ignore = job["podFailurePolicy"]["rules"]
    assert fail["action"] == "FailJob"
    codes = fail["onExitCodes"]
    assert codes["operator"] == "In"
    assert {1, 2} <= set(codes["values"])
    assert not START_AGAIN & set(codes["values"])
    pod = job["template"]["spec"]
    assert codes["containerName"] == pod["containers"][0]["name"]
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    assert ignore["action"] == "Ignore"
    assert ignore["onPodConditions"] == [
        {"type": "DisruptionTarget", "status": "True"}
    ]


def test_the_operator_finds_container_and_port(tfjob):
    assert tfjob["apiVersion"] == "kubeflow.org/v1"
    worker = tfjob["spec"]["tfReplicaSpecs"]["Worker"]
    assert worker["restartPolicy"] == "ExitCode"
    (container,) = worker["template"]["spec"]["containers"]
    assert container["name"] == "tensorflow"
    assert container["ports"] == [{"name": "tfjob-port", "containerPort": 2222}]


def test_a_pod_of_a_tfjob_finds_its_place(tfjob):
    name = tfjob["metadata"]["name"]
    count = tfjob["spec"]["tfReplicaSpecs"]["Worker"]["replicas"]
    workers = [f"{name}-worker-{i}.default.svc:2222" for i in range(count)]
    # As the operator writes it: with a field of its own.
    config = {
        "cluster": {"worker": workers},
        "task": {"type": "worker", "index": 1},
        "environment": "cloud",
    }
    cluster = membership.find({"TF_CONFIG": json.dumps(config)})
    assert (list(cluster.workers), cluster.index) == (workers, 1)


def test_the_image_is_the_one_that_the_dockerfile_names(pod):
    (container,) = pod["containers"]
    name, _, tag = container["image"].partition(":")
    version, _, target = tag.partition("-")
    assert (name, version) == ("moco-tf", moco_tf.__version__)
    text = (ROOT / "Dockerfile").read_text()
    assert f"docker build --target={target} -t {container['image']} ." in text
    # Its user, who may write to the volumes.
    user = int(re.search(r"^USER (\d+):", text, re.M)[1])
    settings = pod["securityContext"]
    assert settings["runAsNonRoot"]
    assert (settings["runAsUser"], settings["fsGroup"]) == (user, user)


def test_the_command_is_pretrain_with_a_configuration_that_exists(pod):
    (container,) = pod["containers"]
    assert container["command"] == ["moco-tf", "pretrain"]
    flags = dict(word.split("=", 1) for word in container["args"])
    assert (ROOT / "configs" / f"{flags['--config']}.py").is_file()
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert flags["--workdir"].startswith("/runs/") and "/runs" in mounts
    assert ":/data/" in flags["--config.data.source"] and "/data" in mounts
    assert "/dev/shm" in mounts


def test_a_worker_can_be_killed_and_has_time_to_save(pod):
    assert pod["shareProcessNamespace"] is True
    assert pod["terminationGracePeriodSeconds"] >= 120


def test_a_new_pod_finds_the_kernels_that_an_old_one_compiled(pod):
    (container,) = pod["containers"]
    cache = {item["name"]: item["value"] for item in container["env"]}
    assert cache["CUDA_CACHE_PATH"].startswith("/runs/")  # of the claim
    assert cache["CUDA_CACHE_MAXSIZE"] == "4294967296"


def test_the_claim_is_shared_by_all(indexed, pod):
    claim = indexed["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    names = {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert names == {claim["metadata"]["name"]}
