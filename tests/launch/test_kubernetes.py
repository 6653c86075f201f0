"""The JobSet manifests against Kubernetes' published schemas, strictly; they never met a cluster."""

import re
import string
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

GIVEN = {
    "NAME": "depth",
    "IMAGE": "registry/jaxdiff:1",
    "CONFIG": "configs/paper_mnist.py",
    "WORKDIR": "gs://bucket/run",
}
CASES = {
    "gke_gpu": GIVEN
    | {"SHARDS": "4", "NODES": "2", "GPUS": "8", "ACCELERATOR": "nvidia-h100-80gb"},
    "gke_tpu": GIVEN
    | {
        "SHARD": "1/2",
        "ACCELERATOR": "tpu-v5-lite-podslice",
        "TOPOLOGY": "4x4",
        "HOSTS": "4",
        "CHIPS": "4",
    },
}


def closed(required=(), **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


# What JobSet v1alpha2 (jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2) has above the jobs, as far as it is used here.
JOBSET = closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=closed(
        ("name",), name={"type": "string"}, annotations={"additionalProperties": {"type": "string"}}
    ),
    spec=closed(
        ("replicatedJobs",),
        network=closed(
            enableDNSHostnames={"type": "boolean"}, publishNotReadyAddresses={"type": "boolean"}
        ),
        failurePolicy=closed(maxRestarts={"type": "integer", "minimum": 0}),
        replicatedJobs={
            "type": "array",
            "items": closed(
                ("name", "template"),
                name={"type": "string"},
                replicas={"type": "integer", "minimum": 1},
                template=closed(("spec",), spec={"type": "object"}),
            ),
        },
    ),
)


def manifest(name):
    """As envsubst fills it."""
    text = Path(f"launch/{name}.yaml").read_text()
    return yaml.safe_load(string.Template(text).safe_substitute(CASES[name]))


@pytest.mark.parametrize("name", CASES)
def test_a_manifest_is_what_kubernetes_takes(name):
    jobset = manifest(name)
    jsonschema.validate(jobset, JOBSET)
    (study,) = jobset["spec"]["replicatedJobs"]
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "study"},
        "spec": study["template"]["spec"],
    }
    kubernetes_validate.validate(job, "1.33", strict=True)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    own = {f"$({e['name']})" for e in container.get("env", [])}
    assert set(re.findall(r"\$\(\w+\)", " ".join(container["command"]))) <= own, (
        "Kubernetes fills these from the environment"
    )
    assert "--config=configs/paper_mnist.py" in container["command"]


def test_a_mistyped_field_is_refused():
    job = manifest("gke_tpu")["spec"]["replicatedJobs"][0]["template"]["spec"]
    job["template"]["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": job},
            "1.33",
            strict=True,
        )


@pytest.mark.parametrize("name", CASES)
def test_its_first_lines_name_every_variable(name):
    text = Path(f"launch/{name}.yaml").read_text()
    comment, _, body = text.partition("apiVersion")
    assert (
        set(re.findall(r"\$\{(\w+)\}", body))
        == set(re.findall(r"\b([A-Z]+)=", comment))
        == set(CASES[name])
    )
