"""Ray's nodes with TLS between them, by the certificates of infra/tls: who has none does not get in."""

import contextlib
import re
import subprocess
import urllib.request
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from ray.util import get_node_ip_address

from tests.integration.cluster import ROOT, RayCluster, joining_node, running_cluster
from tests.integration.programs import needed_program

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SCRIPT = ROOT / "infra" / "tls" / "certificates.sh"
COUNT = "import ray; ray.init(log_to_driver=False); print('nodes', len([n for n in ray.nodes() if n['Alive']]))"


def settings(folder: Path) -> dict[str, str]:
    """As infra/tls/README.md tells."""
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(folder / "tls.crt"),
        "RAY_TLS_SERVER_KEY": str(folder / "tls.key"),
        "RAY_TLS_CA_CERT": str(folder / "ca.crt"),
    }


def make(folder: Path, *nodes: str) -> None:
    needed_program("openssl", "openssl")
    subprocess.run([SCRIPT, folder, *nodes], check=True, capture_output=True)


def count_nodes(cluster: RayCluster) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [cluster.python, "-c", COUNT], env=cluster.env, capture_output=True, text=True, timeout=120, check=False
    )


def agent_ports(cluster: RayCluster) -> list[int]:
    """Where the agents of the cluster's nodes listen."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            port = re.search(r"--listen-port=(\d+)", " ".join(process.cmdline()))
            if port and str(cluster.folder) in str(process.environ()):
                found.append(int(port[1]))
    assert found
    return found


def test_nodes_know_each_other_by_their_certificates(tmp_path: Path) -> None:
    address = get_node_ip_address()  # what Ray makes of 127.0.0.1
    make(tmp_path / "ours", f"head={address}", f"worker={address}")
    make(tmp_path / "theirs", f"worker={address}")
    with (
        running_cluster(1, settings(tmp_path / "ours" / "head"), has_dashboard=False) as cluster,
        joining_node(replace(cluster, env=cluster.env | settings(tmp_path / "ours" / "worker")), 1),
    ):
        without = {name: value for name, value in cluster.env.items() if "TLS" not in name}
        strangers = {
            "Failed to connect to GCS": without,
            "CERTIFICATE_VERIFY_FAILED": cluster.env | settings(tmp_path / "theirs" / "worker"),
        }
        for refused, env in strangers.items():
            env |= {"RAY_gcs_rpc_server_connect_timeout_s": "1"}
            with joining_node(replace(cluster, env=env), 1, told=refused):
                pass
        # What probes of infra/kuberay ask, with neither token nor certificate.
        for port in agent_ports(cluster):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/healthz", timeout=30) as reply:
                assert reply.read().decode().startswith("raylet: success\ngcs: success")
        told = count_nodes(cluster)
        assert "nodes 2" in told.stdout, told.stderr
