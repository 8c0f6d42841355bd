"""infra/aws: Ray's own loader takes the cluster's file, EC2 takes what Ray makes of it, and its commands run."""

import json
import re
import shlex
import stat
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.aws.config import _configure_from_network_interfaces, _configure_key_pair
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.command_runner import _with_interactive
from ray.autoscaler._private.util import hash_runtime_conf, prepare_config, validate_config, with_head_node_ip
from ray.scripts.scripts import cli

from tests.infra.shell import ROOT, calls, code_blocks, run, stub
from tests.scripts import load_script

FOLDER = ROOT / "infra" / "aws"
SETTINGS = {
    "DVT_AWS_REGION": "eu-west-1",
    "DVT_AWS_ACCOUNT": "123456789012",
    "DVT_AMI": "ami-0123456789abcdef0",
    "DVT_SUBNET": "subnet-0123456789abcdef0",
    "DVT_SECURITY_GROUP": "sg-0123456789abcdef0",
    "DVT_KEY_NAME": "dvt",
    "DVT_SSH_KEY": "~/.ssh/dvt.pem",
    "DVT_BUCKET": "my-bucket",
}


@pytest.fixture(scope="module")
def fill() -> ModuleType:
    return load_script(FOLDER / "fill.py")


@pytest.fixture(scope="module")
def cluster(fill: ModuleType) -> dict[str, Any]:
    """The file as Ray prepares it."""
    text = (FOLDER / "cluster.yaml").read_text()
    assert fill.problems_of(text, SETTINGS) == []
    config: dict[str, Any] = prepare_config(yaml.safe_load(fill.filled(text, SETTINGS)))
    return config


def test_ray_takes_the_file(cluster: dict[str, Any]) -> None:
    validate_config(cluster)
    with pytest.raises(Exception, match="Additional properties are not allowed"):
        validate_config({**cluster, "head_start_ray_command": []})


def launched(cluster: dict[str, Any], name: str) -> dict[str, Any]:
    """What Ray asks EC2 for to start a node of this type."""
    asked: dict[str, Any] = {}

    class Ec2:
        def create_instances(self, **conf: Any) -> list[Any]:
            asked.update(conf)
            return []

    config = _configure_key_pair(_configure_from_network_interfaces({**cluster, "head_node": {}}))
    provider = AWSNodeProvider.__new__(AWSNodeProvider)
    provider.cluster_name, provider.provider_config, provider.ec2_fail_fast = "dvt", cluster["provider"], Ec2()
    provider._create_node(config["available_node_types"][name]["node_config"], {"ray-node-type": "worker"}, 2)
    return asked


@pytest.mark.parametrize("name", ["head", "cpu", "gpu"])
def test_ec2_takes_what_ray_asks_for(cluster: dict[str, Any], name: str) -> None:
    asked = launched(cluster, name)
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    assert ParamValidator().validate(asked, shape).generate_report() == ""
    assert asked["MetadataOptions"]["HttpTokens"] == "required"
    assert asked["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    (interface,) = asked["NetworkInterfaces"]
    assert interface["AssociatePublicIpAddress"] is False
    assert "SubnetId" not in asked
    assert all(each["Ebs"]["Encrypted"] for each in asked["BlockDeviceMappings"])
    assert asked.get("InstanceMarketOptions") == (None if name == "head" else {"MarketType": "spot"})
    assert asked["IamInstanceProfile"]["Name"] == ("dvt-ray-head" if name == "head" else "dvt-ray-worker")
    assert {"Key": "ray-cluster-name", "Value": "dvt"} in asked["TagSpecifications"][0]["Tags"]


def test_a_misspelt_field_of_a_node_is_found(cluster: dict[str, Any]) -> None:
    asked = launched(cluster, "cpu") | {"InstanceMarketOption": {}}
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    assert "InstanceMarketOption" in ParamValidator().validate(asked, shape).generate_report()


def test_nodes_are_reached_on_private_addresses_alone(cluster: dict[str, Any]) -> None:
    assert cluster["provider"]["use_internal_ips"] is True
    assert cluster["auth"]["ssh_proxy_use_node_id"] is True
    assert cluster["auth"]["ssh_proxy_command"].startswith("aws ssm start-session --region eu-west-1 --target %h ")


def test_files_that_nodes_get_are_there(
    cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in ROOT.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "job.env").touch()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("made by ray get-auth-token")
    _, contents = hash_runtime_conf(cluster["file_mounts"], cluster["cluster_synced_files"], "", True)
    assert contents  # Ray has read each of them, and raises where one is missing
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "made by" not in json.dumps(cluster)


def ray_arguments(line: str) -> list[str]:
    """The arguments of Ray's command line, as its parser took them; it fails on an option that it does not know."""
    _, command, *words = shlex.split(line)
    context = cli.commands[command].make_context(command, words, resilient_parsing=False)
    return [command, *(f"{name}={value}" for name, value in context.params.items() if value)]


@pytest.mark.parametrize("who", ["head", "worker"])
def test_commands_that_start_ray_run(cluster: dict[str, Any], who: str, tmp_path: Path) -> None:
    """As `ray up` runs them; what Ray inherits, its jobs do."""
    programs = tmp_path / "dvt" / "venv" / "bin"
    ray = stub(programs, "ray")
    ray.write_text(ray.read_text().replace("exit 0", 'env > "$HOME/env"; command -v python'))
    stub(programs, "python")
    (tmp_path / "dvt" / "start.sh").write_bytes((FOLDER / "start.sh").read_bytes())
    (tmp_path / "dvt" / "job.env").write_text("MLFLOW_TRACKING_URI=https://mlflow.example\n")
    (command,) = cluster[f"{who}_start_ray_commands"]
    if who == "worker":
        (command,) = with_head_node_ip([command], "10.0.0.5")
    *_, wrapped = _with_interactive(command)
    (as_ray_runs_it,) = shlex.split(wrapped)
    done = run(as_ray_runs_it.replace("source ~/.bashrc;", ""), tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(programs / "python") in done.stdout
    stop, start = (ray_arguments(line) for line in calls(tmp_path))
    assert stop[0] == "stop"
    told = set(start[1:])
    if who == "head":
        listens = {"head=True", "port=6379", "dashboard_host=127.0.0.1"}
        assert listens | {f"autoscaling_config={tmp_path}/ray_bootstrap_config.yaml"} <= told
    else:
        assert "address=10.0.0.5:6379" in told
    inherited = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    assert (inherited["RAY_AUTH_MODE"], inherited["RAY_JOB_STOP_WAIT_TIME_S"]) == ("token", "30")
    assert inherited["MLFLOW_TRACKING_URI"] == "https://mlflow.example"
    assert not {"OMP_NUM_THREADS", "PYTHONWARNINGS"} & set(inherited)


def test_a_node_is_set_up_once(cluster: dict[str, Any], tmp_path: Path) -> None:
    """The commands themselves; python3 makes an environment whose pip is stubbed."""
    stub(tmp_path / "bin", "sudo")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    (tmp_path / "dvt").mkdir()
    for remote, local in cluster["file_mounts"].items():
        if local == "job.env":
            (tmp_path / "dvt" / local).write_text("MLFLOW_TRACKING_PASSWORD=secret")
        elif not local.startswith("~"):
            (tmp_path / remote.removeprefix("~/")).write_bytes((ROOT / local).read_bytes())
    stub(tmp_path / "new", "python")
    python3 = tmp_path / "bin" / "python3"
    python3.write_text(
        '#!/bin/bash\nif [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$HOME/new/python" "$3/bin/"\n'
        f'else exec {shlex.quote(sys.executable)} "$@"; fi\n'
    )
    python3.chmod(0o755)
    for _ in range(2):
        for command in cluster["setup_commands"]:
            done = run(command, tmp_path)
            assert done.returncode == 0, done.stderr
    assert "has these versions already" in done.stdout
    for name in (".ray/auth_token", "dvt/job.env"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    (call,) = calls(tmp_path)
    assert call.startswith("python -m pip install ")
    assert "torch>=" in (tmp_path / "dvt" / "requirements.txt").read_text()
    (tmp_path / "dvt" / "constraints.txt").write_text("ray==2.61.0\n")
    assert run(cluster["setup_commands"][-1], tmp_path).returncode == 0
    assert len(calls(tmp_path)) == 2


def statements(fill: ModuleType, name: str) -> list[dict[str, Any]]:
    text = (FOLDER / "iam" / name).read_text()
    assert fill.problems_of(text, SETTINGS) == []
    found: list[dict[str, Any]] = json.loads(fill.filled(text, SETTINGS))["Statement"]
    return found


def test_roles_have_the_least_rights(fill: ModuleType) -> None:
    for name in ("head.json", "worker.json"):
        for statement in statements(fill, name):
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert not any("*" in action for action in actions)
            if statement["Resource"] == "*":  # what these look at has no name of its own
                assert all(action.startswith(("ec2:Describe", "ssm")) for action in actions)
    worker = statements(fill, "worker.json")
    assert {action.partition(":")[0] for statement in worker for action in statement["Action"]} == {"s3"}
    assert all(":::my-bucket" in statement["Resource"] for statement in worker)
    head = {statement["Sid"]: statement for statement in statements(fill, "head.json")}
    run_instances = head["StartWorkersOfThisCluster"]["Condition"]["StringEquals"]
    assert run_instances == {"aws:RequestTag/ray-cluster-name": "dvt", "ec2:MetadataHttpTokens": "required"}
    own = {"StringEquals": {"ec2:ResourceTag/ray-cluster-name": "dvt"}}
    assert head["NameAndEndThoseOfThisCluster"]["Condition"] == own
    assert head["GiveThemTheWorkersRole"]["Resource"].endswith(":role/dvt-ray-worker")


def test_actions_are_ones_that_aws_knows(fill: ModuleType) -> None:
    services = {service: botocore.session.get_session().get_service_model(service) for service in ("ec2", "ssm", "iam")}
    without_call = {"iam:PassRole"}
    for statement in statements(fill, "head.json"):
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        for action in set(actions) - without_call:
            service, _, call = action.partition(":")
            if service in services and action != "ssm:UpdateInstanceInformation":
                assert call in services[service].operation_names, action


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"DVT_AMI": ""}, "DVT_AMI must be an image such as ami-0123456789abcdef0, got none"),
        (
            {"DVT_SUBNET": "10.0.0.0/24"},
            "DVT_SUBNET must be a subnet such as subnet-0123456789abcdef0, got 10.0.0.0/24",
        ),
        ({"DVT_KEY_NAME": "a: b"}, "DVT_KEY_NAME must be the name of a key pair, got a: b"),
    ],
)
def test_a_wrong_setting_is_one_sentence(fill: ModuleType, change: dict[str, str], told: str) -> None:
    assert fill.problems_of((FOLDER / "cluster.yaml").read_text(), SETTINGS | change) == [told]


def test_the_readmes_commands_run_in_their_order(tmp_path: Path) -> None:
    stub(tmp_path / "bin", "aws", {"create-security-group": SETTINGS["DVT_SECURITY_GROUP"]})
    stub(tmp_path / "bin", "ray")
    (tmp_path / "aws.env").write_text(
        "".join(f"{name}={value}\n" for name, value in SETTINGS.items() if name != "DVT_SECURITY_GROUP")
    )
    (tmp_path / "infra").symlink_to(ROOT / "infra")
    once, start, use = code_blocks(FOLDER / "README.md")
    done = run(f"{once}\n{start}\n{use}", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    called = calls(tmp_path)
    assert validate_config(prepare_config(yaml.safe_load((tmp_path / "cluster.local.yaml").read_text()))) is None
    roles = [shlex.split(line) for line in called if "put-role-policy" in line]
    assert len(roles) == 3
    for words in roles:
        json.loads((tmp_path / words[-1].removeprefix("file://")).read_text())
    for line in called:
        if line.startswith("ray ") and " job " not in line:
            ray_arguments(line)


def test_every_setting_is_told_in_the_readme(fill: ModuleType) -> None:
    told = (FOLDER / "README.md").read_text()
    assert [name for name in fill.RULES if f"`{name}`" not in told] == []
    files = [path.read_text() for path in FOLDER.rglob("*") if path.suffix in (".json", ".yaml")]
    used = {name for text in files for name in re.findall(r"\$\{(DVT_\w+)\}", text)}
    assert used == set(fill.RULES)
