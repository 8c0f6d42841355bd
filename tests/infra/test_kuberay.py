"""infra/kuberay: fields are those that KubeRay and Kubernetes know, nothing is open, and jobs start what is there."""

import copy
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from dvt.config import load_recipe, to_dict
from tests.infra.kuberay_schema import SCHEMAS
from tests.infra.shell import ROOT, calls, code_blocks, dockerfile, pinned, run, stub

FOLDER = ROOT / "infra" / "kuberay"
FILES = sorted(FOLDER.glob("*.yaml"))


@functools.cache
def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


OBJECTS = [
    pytest.param(document, id=f"{path.stem}-{document['metadata']['name']}")
    for path in FILES
    for document in documents(path)
]


def cluster_specs() -> Iterator[dict[str, Any]]:
    for path in FILES:
        for document in documents(path):
            if document["kind"].startswith("Ray"):
                yield document["spec"].get("rayClusterSpec", document["spec"])


def templates() -> Iterator[dict[str, Any]]:
    for spec in cluster_specs():
        yield spec["headGroupSpec"]["template"]
        yield from (group["template"] for group in spec["workerGroupSpecs"])
    yield from (job()["spec"]["submitterPodTemplate"] for job in JOBS)


def job_of(name: str) -> Any:
    return lambda: documents(FOLDER / name)[0]


JOBS = [job_of("job-cpu.yaml"), job_of("job-gpu.yaml")]


@pytest.mark.parametrize("document", OBJECTS)
def test_fields_are_known(document: dict[str, Any]) -> None:
    jsonschema.validate(document, SCHEMAS[document["kind"]], cls=jsonschema.Draft202012Validator)


def test_the_schemas_are_schemas_and_refuse_what_is_misspelt() -> None:
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    (cluster,) = documents(FOLDER / "cluster.yaml")
    for path, value in ((("spec", "authOption"), {}), (("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0)):
        broken = copy.deepcopy(cluster)
        place = broken
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, SCHEMAS["RayCluster"])


def test_every_cluster_asks_for_the_token_and_scales_its_pools() -> None:
    for spec in cluster_specs():
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["enableInTreeAutoscaling"] is True
        assert spec["rayVersion"] == pinned()["ray"]
        assert all(group["minReplicas"] == 0 < group["maxReplicas"] for group in spec["workerGroupSpecs"])
    pools = [group["groupName"] for group in documents(FOLDER / "cluster.yaml")[0]["spec"]["workerGroupSpecs"]]
    assert pools == ["cpu", "gpu"]


def test_no_pod_has_rights_it_does_not_need() -> None:
    """What the namespace's label asks of a pod, so that none is refused there."""
    namespace, account = documents(FOLDER / "namespace.yaml")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    contexts = [spec["autoscalerOptions"]["securityContext"] for spec in cluster_specs()]
    for template in templates():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert f"{pod['securityContext']['runAsUser']}" == dockerfile(ROOT / "infra/docker/Dockerfile")[-1][1]
        contexts += [container["securityContext"] for container in pod["containers"]]
        is_head = pod["containers"][0]["name"] == "ray-head"  # its autoscaler asks Kubernetes for pods
        assert pod.get("automountServiceAccountToken", True) is is_head
        is_ray = pod["containers"][0]["name"] != "ray-job-submitter"
        assert pod.get("serviceAccountName") == (account["metadata"]["name"] if is_ray else None)
    for context in contexts:
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        assert context["seccompProfile"]["type"] == "RuntimeDefault"


def test_secrets_come_from_a_secret() -> None:
    for path in FILES:
        assert not re.search(r"(?i)(password|secret_access_key|auth_token)\S*:", path.read_text()), path.name
    for template in templates():
        for container in template["spec"]["containers"]:
            assert container["envFrom"] == [{"secretRef": {"name": "dvt-job"}}]
            assert "env" not in container


def test_nothing_is_reachable_but_by_those_that_are_named() -> None:
    for spec in cluster_specs():
        assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
        assert spec["headGroupSpec"]["enableIngress"] is False
    policies = {document["metadata"]["name"]: document["spec"] for document in documents(FOLDER / "network.yaml")}
    everything = policies.pop("nothing-but-what-follows")
    assert everything == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in policies.values():
        for rule in policy.get("ingress", []):
            assert rule["from"]
            assert not any("ipBlock" in peer for peer in rule["from"])
            # Another namespace reaches some ports only.
            assert "ports" in rule or all("namespaceSelector" not in peer for peer in rule["from"])
        for rule in policy.get("egress", []):
            blocks = [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]
            is_for_names = {port["port"] for port in rule.get("ports", ())} == {53}
            assert is_for_names or all("169.254.0.0/16" in block["except"] for block in blocks)
    chosen = policies["ray-nodes"]["podSelector"]["matchLabels"]
    for template in templates():
        assert chosen.items() <= template["metadata"]["labels"].items()
    ports = ray_ports()
    for name in ("operator", "prometheus", "serving"):
        for rule in policies[name]["ingress"]:
            assert {port["port"] for port in rule["ports"]} <= ports


def ray_ports() -> set[int]:
    (cluster,) = documents(FOLDER / "cluster.yaml")
    return {
        port["containerPort"] for port in cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]
    }


def test_probes_ask_the_agent_of_each_node() -> None:
    for spec in cluster_specs():
        for template in (spec["headGroupSpec"]["template"], *(g["template"] for g in spec["workerGroupSpecs"])):
            (container,) = template["spec"]["containers"]
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert container[probe]["httpGet"] == {"path": "/api/healthz", "port": 52365}


def test_images_are_those_that_the_dockerfile_makes() -> None:
    stages = {words.split()[-1] for name, words in dockerfile(ROOT / "infra/docker/Dockerfile") if name == "FROM"}
    for template in templates():
        for container in template["spec"]["containers"]:
            found = re.fullmatch(r"dvt-(\w+):0\.1\.0", container["image"])
            assert found
            assert found[1] in stages
            gpus = container["resources"]["limits"].get("nvidia.com/gpu", 0)
            assert not gpus or found[1] == "gpu"


@pytest.mark.parametrize("name", ["job-cpu.yaml", "job-gpu.yaml"])
def test_a_job_starts_what_the_image_holds(name: str, tmp_path: Path) -> None:
    """The command as a shell takes it apart, with the image's folder for ours."""
    job = job_of(name)()
    copied = [words.split() for kind, words in dockerfile(ROOT / "infra/docker/Dockerfile") if kind == "COPY"]
    assert {tuple(words) for words in copied} >= {("jobs", "/opt/dvt/jobs"), ("platform", "/opt/dvt/platform")}
    stub(tmp_path / "bin", "python")
    env = {"DVT_STORAGE": "s3://bucket/dvt", "DVT_IMAGENET": "s3://bucket/imagenet"}
    done = run(job["spec"]["entrypoint"], tmp_path, env)
    assert done.returncode == 0, done.stderr
    (call,) = calls(tmp_path)
    _, script, option, file, *overrides = shlex.split(call)
    assert ROOT / Path(script).relative_to("/opt/dvt") == ROOT / "jobs" / "train_imagenet.py"
    assert option == "--recipe"
    recipe = to_dict(load_recipe(ROOT / Path(file).relative_to("/opt/dvt"), overrides))
    assert recipe["run"]["storage_path"] == "s3://bucket/dvt"
    workers, pool = recipe["cluster"]["num_workers"], job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    room = pool["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert workers <= pool["maxReplicas"] * int(room.get("nvidia.com/gpu", room["cpu"]))
    assert recipe["cluster"]["cpus_per_worker"] <= int(room["cpu"])
    for setting in re.findall(r"\$(\w+)", job["spec"]["entrypoint"]):
        assert f"`{setting}`" in (FOLDER / "README.md").read_text()


def test_the_readmes_commands_run_in_their_order(tmp_path: Path) -> None:
    for name in ("docker", "helm", "kubectl", "ray"):
        stub(tmp_path / "bin", name, {"get secret": "dG9rZW4="} if name == "kubectl" else None)
    for block in code_blocks(FOLDER / "README.md"):
        done = run(block, tmp_path, {"REGISTRY": "here"})
        assert done.returncode == 0, done.stderr
    called = calls(tmp_path)
    assert "docker push here/dvt-gpu:0.1.0" in called
    for file in re.findall(r"-f (infra/\S+)", "\n".join(called)):
        assert (ROOT / file).exists(), file
    (submitted,) = (line for line in called if line.startswith("ray job submit"))
    assert (ROOT / "jobs" / "search_architecture.py").exists()
    assert "jobs/search_architecture.py" in submitted
    applied = run('sed "s#image: dvt-#image: here/dvt-#" infra/kuberay/cluster.yaml', tmp_path).stdout
    assert {image.partition("/")[0] for image in re.findall(r"image: (\S+)", applied)} == {"here"}
