"""The JobSet manifests against Kubernetes' published schemas, in strict mode.

No cluster is involved.
"""

import re
import string
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

KUBERNETES_VERSION = "1.33"
COMMON_VARIABLES = {
    "NAME": "depth",
    "IMAGE": "registry/jaxdiff:1",
    "CONFIG": "configs/paper_mnist.py",
    "WORKDIR": "gs://bucket/run",
}
# What a user exports before envsubst fills a manifest.
VARIABLES = {
    "gke_gpu": {
        **COMMON_VARIABLES,
        "SHARDS": "4",
        "NODES": "2",
        "GPUS": "8",
        "ACCELERATOR": "nvidia-h100-80gb",
    },
    "gke_tpu": {
        **COMMON_VARIABLES,
        "SHARD": "1/2",
        "ACCELERATOR": "tpu-v5-lite-podslice",
        "TOPOLOGY": "4x4",
        "HOSTS": "4",
        "CHIPS": "4",
    },
}


def strict_object(required=(), **properties):
    """The JSON schema of an object that has no other properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


METADATA = strict_object(
    ("name",),
    name={"type": "string"},
    annotations={"additionalProperties": {"type": "string"}},
)
NETWORK = strict_object(
    enableDNSHostnames={"type": "boolean"},
    publishNotReadyAddresses={"type": "boolean"},
)
REPLICATED_JOB = strict_object(
    ("name", "template"),
    name={"type": "string"},
    replicas={"type": "integer", "minimum": 1},
    template=strict_object(("spec",), spec={"type": "object"}),
)
FAILURE_RULE = strict_object(
    ("action",),
    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
    onJobFailureReasons={
        "type": "array",
        "items": {
            "enum": [
                "BackoffLimitExceeded",
                "DeadlineExceeded",
                "FailedIndexes",
                "MaxFailedIndexesExceeded",
                "PodFailurePolicy",
            ]
        },
    },
)
# The part of JobSet v1alpha2 above the jobs that the manifests use, from
# jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2.
JOBSET = strict_object(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=METADATA,
    spec=strict_object(
        ("replicatedJobs",),
        network=NETWORK,
        failurePolicy=strict_object(
            maxRestarts={"type": "integer", "minimum": 0},
            rules={"type": "array", "items": FAILURE_RULE},
        ),
        replicatedJobs={"type": "array", "items": REPLICATED_JOB},
    ),
)


def read_manifest(name):
    return Path(f"launch/{name}.yaml").read_text()


def load_jobset(name):
    """A manifest as envsubst fills it."""
    template = string.Template(read_manifest(name))
    return yaml.safe_load(template.safe_substitute(VARIABLES[name]))


def validate_job(spec):
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "study"}, "spec": spec}
    kubernetes_validate.validate(job, KUBERNETES_VERSION, strict=True)


@pytest.mark.parametrize("name", VARIABLES)
def test_a_manifest_is_valid_for_kubernetes(name):
    jobset = load_jobset(name)
    jsonschema.validate(jobset, JOBSET)
    (replicated_job,) = jobset["spec"]["replicatedJobs"]
    spec = replicated_job["template"]["spec"]
    validate_job(spec)
    (container,) = spec["template"]["spec"]["containers"]
    # Kubernetes replaces $(NAME) by the container's variables, and leaves an unknown name as it is.
    references = set(re.findall(r"\$\(\w+\)", " ".join(container["command"])))
    assert references <= {f"$({variable['name']})" for variable in container.get("env", [])}
    assert "--config=configs/paper_mnist.py" in container["command"]


def read_status(module, name):
    (status,) = re.findall(rf"^{name} = (\d+)", Path(f"experiments/{module}.py").read_text(), re.M)
    return int(status)


@pytest.mark.parametrize("name", VARIABLES)
def test_what_would_end_in_the_same_way_is_not_run_again(name):
    """On TPUs one JobSet is one sweep; of a diverged cell a task of an array ends with 0."""
    statuses = [read_status("_cli", "REFUSED")]
    if name == "gke_tpu":
        statuses.append(read_status("sweep", "DIVERGED_STATUS"))
    spec = load_jobset(name)["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    (rule,) = [r for r in job["podFailurePolicy"]["rules"] if r["action"] == "FailJob"]
    assert rule["onExitCodes"] == {"operator": "In", "values": statuses}
    assert spec["failurePolicy"]["rules"] == [
        {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]


def test_a_mistyped_field_is_refused():
    spec = load_jobset("gke_tpu")["spec"]["replicatedJobs"][0]["template"]["spec"]
    spec["template"]["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate_job(spec)


@pytest.mark.parametrize("name", VARIABLES)
def test_the_header_names_every_variable(name):
    header, _, body = read_manifest(name).partition("apiVersion")
    used = set(re.findall(r"\$\{(\w+)\}", body))
    documented = set(re.findall(r"\b([A-Z]+)=", header))
    assert used == documented == set(VARIABLES[name])
