"""The software bill of materials: made from what is installed, complete, and valid CycloneDX."""

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKE = ["make", f"VENV={sys.prefix}", "STAMP="]  # this environment in place of `.venv`, installed as it is
CHECKED = 6  # components that are checked against the schema; all of them take 15 s
# Run in the environment that the bill is written by: what is wrong with the bill on standard input.
VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
print(JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read()) or "valid")
"""


@pytest.fixture(scope="module")
def sbom(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `make sbom` writes, once what writes it is installed."""
    target = tmp_path_factory.mktemp("sbom") / "sbom.json"
    subprocess.run([*MAKE, f"{sys.prefix}/sbom/.installed"], cwd=ROOT, check=True)
    command = [*MAKE, f"SBOM={target}", "sbom"]
    # No network: the proxy that every client would ask is not there.
    env = {"PATH": "/usr/bin:/bin", "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"sbom: {target} lists \d+ components\n", done.stdout)
    made: dict[str, Any] = json.loads(target.read_text())
    return made


def spelt(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def validated(bill: dict[str, Any]) -> str:
    command = [f"{sys.prefix}/sbom/bin/python", "-c", VALIDATE]
    done = subprocess.run(command, input=json.dumps(bill), capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_processes_of_ray_start_without_what_it_needs() -> None:
    """jsonschema reads a grammar of URLs at its import if that is installed: a second of a core for each process."""
    assert importlib.util.find_spec("jsonschema") is not None
    assert importlib.util.find_spec("rfc3987_syntax") is None


def test_all_that_is_installed_is_in_it(sbom: dict[str, Any]) -> None:
    listed = {(spelt(each["name"]), each["version"]) for each in sbom["components"]}
    place = [sysconfig.get_path("purelib")]  # not what Ray brings with it and puts on the path
    installed = {(spelt(each.name), each.version) for each in importlib.metadata.distributions(path=place)}
    assert len(listed) > 100
    assert installed - listed == set()
    torch = next(each for each in sbom["components"] if each["name"] == "torch")
    assert torch["purl"].startswith("pkg:pypi/torch@")
    assert sbom["metadata"]["component"]["name"] == "dvt-platform"


def test_it_is_valid_cyclonedx(sbom: dict[str, Any]) -> None:
    kept = sbom["components"][:CHECKED]
    names = {each["bom-ref"] for each in kept}
    links = [{**each, "dependsOn": sorted(names & set(each.get("dependsOn", [])))} for each in sbom["dependencies"]]
    part = sbom | {"components": kept, "dependencies": [each for each in links if each["ref"] in names]}
    assert validated(part) == "valid"
    assert validated(part | {"specVersion": 7}) != "valid"
    references = [each["bom-ref"] for each in sbom["components"]]
    assert len(set(references)) == len(references)
