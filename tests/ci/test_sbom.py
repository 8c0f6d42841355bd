"""The software bill of materials: made from what is installed, complete, and valid CycloneDX."""

import importlib.metadata
import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).resolve().parents[2]
CHECKED = 6  # components that are checked against the schema; all of them take 15 s


@pytest.fixture(scope="module")
def sbom(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `make sbom` writes, with this environment in place of `.venv`."""
    target = tmp_path_factory.mktemp("sbom") / "sbom.json"
    command = ["make", "STAMP=", f"BIN={Path(sys.executable).parent}", f"SBOM={target}", "sbom"]
    # No network: the proxy that every client would ask is not there.
    env = {"PATH": "/usr/bin:/bin", "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"sbom: {target} lists \d+ components\n", done.stdout)
    made: dict[str, Any] = json.loads(target.read_text())
    return made


def spelt(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


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
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(part)) is None
    assert validator.validate_str(json.dumps(part | {"specVersion": 7})) is not None
    references = [each["bom-ref"] for each in sbom["components"]]
    assert len(set(references)) == len(references)
