"""infra/tls: the script's certificates hold what it was told, and stay when it runs again.

tests/integration/test_tls.py starts Ray's nodes with them.
"""

import ipaddress
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from tests.infra.shell import ROOT, code_blocks, run
from tests.integration.programs import needed_program

SCRIPT = ROOT / "infra" / "tls" / "certificates.sh"


def make(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    needed_program("openssl", "openssl")
    return subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=False)


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def names(path: Path) -> x509.SubjectAlternativeName:
    return certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_a_node_gets_a_certificate_of_its_addresses(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    done = make(folder, "head=10.0.0.5", "worker-1=fd00::6,worker-1.example")
    assert done.returncode == 0, done.stderr
    authority = certificate(folder / "ca.crt")
    for node in ("head", "worker-1"):
        assert sorted(path.name for path in (folder / node).iterdir()) == ["ca.crt", "tls.crt", "tls.key"]
        certificate(folder / node / "tls.crt").verify_directly_issued_by(authority)
        assert stat.S_IMODE((folder / node / "tls.key").stat().st_mode) == 0o600
    addresses = names(folder / "head" / "tls.crt").get_values_for_type(x509.IPAddress)
    assert addresses == [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("10.0.0.5")]
    worker = names(folder / "worker-1" / "tls.crt")
    assert ipaddress.ip_address("fd00::6") in worker.get_values_for_type(x509.IPAddress)
    assert worker.get_values_for_type(x509.DNSName) == ["localhost", "worker-1.example"]


def test_more_nodes_join_and_those_that_are_there_stay(tmp_path: Path) -> None:
    make(tmp_path, "head=10.0.0.5")
    before = (tmp_path / "ca.crt").read_bytes(), (tmp_path / "head" / "tls.crt").read_bytes()
    done = make(tmp_path, "head=10.0.0.7", "worker=10.0.0.6")
    assert done.stdout.splitlines()[0] == f"{tmp_path}/head is there already"
    assert ((tmp_path / "ca.crt").read_bytes(), (tmp_path / "head" / "tls.crt").read_bytes()) == before
    certificate(tmp_path / "worker" / "tls.crt").verify_directly_issued_by(certificate(tmp_path / "ca.crt"))


@pytest.mark.parametrize("node", ["head", "../head=10.0.0.5", "head=", "=10.0.0.5", "head=10.0.0.5;ls", "a=1=2"])
def test_a_wrong_node_is_told_and_nothing_is_made(tmp_path: Path, node: str) -> None:
    done = make(tmp_path / "new", node)
    assert (done.returncode, done.stderr) == (2, f"{SCRIPT}: a node must be NAME=ADDRESS[,ADDRESS], got {node}\n")
    assert not (tmp_path / "new").exists()


def test_the_authority_outlasts_the_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "head=10.0.0.5")
    authority = certificate(tmp_path / "ca.crt").not_valid_after_utc
    assert (authority - certificate(tmp_path / "head" / "tls.crt").not_valid_after_utc).days >= 8 * 365
    monkeypatch.setenv("DAYS", "3650")
    done = make(tmp_path, "worker=10.0.0.6")
    assert done.returncode == 1
    assert done.stderr == (
        f"{SCRIPT}: the authority of {tmp_path} must hold longer than 3650 days; set DAYS, or make a new one in "
        "another folder\n"
    )
    assert not (tmp_path / "worker").exists()


def test_the_readmes_command_makes_its_nodes(tmp_path: Path) -> None:
    needed_program("openssl", "openssl")
    (block,) = code_blocks(ROOT / "infra" / "tls" / "README.md")
    done = run(block.replace("infra/tls", f"{ROOT}/infra/tls"), tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "certificates").iterdir()} == {"ca.crt", "ca.key", "head", "worker-1"}
