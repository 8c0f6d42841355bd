"""Builds the images of infra/ by the commands in their Dockerfiles, and tries each: `python -m tests.images`.

buildah takes docker's place, as it needs no daemon. Where the image that they begin with cannot be pulled, a Debian of
the same release that debootstrap makes, with Debian's Python, stands in for it, and the command says so. Needs root,
ten minutes, and 40 GB in the temporary folder.
"""

import contextlib
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from tests.infra.shell import ROOT, dockerfile
from tests.integration.cluster import free_port

FILES = (ROOT / "infra" / "docker" / "Dockerfile", ROOT / "infra" / "mlflow" / "Dockerfile")
USER = "10001"
# One short epoch.
OPTIONS = (
    "--optimizer.epochs 1 --optimizer.warmup-epochs 0 --data.train-images 512 --data.calibration-images 256 "
    "--data.test-images 256 --exits.static-reference false"
)


@dataclass(frozen=True)
class Buildah:
    """Images and containers in a folder."""

    folder: Path

    def __call__(self, *words: str, is_to_fail: bool = False) -> str:
        """What a command prints."""
        command = ["buildah", "--root", str(self.folder / "images"), "--runroot", str(self.folder / "run"), *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == is_to_fail, f"{shlex.join(command)}\n{(done.stdout + done.stderr)[-4000:]}"
        return done.stdout if not is_to_fail else done.stdout + done.stderr

    def in_image(self, image: str, script: str, is_to_fail: bool = False) -> str:
        """What a shell prints in a container of an image, as its user and without any capability."""
        container = self("from", "--pull-never", image).strip()
        run = ("run", "--isolation", "chroot", "--network", "host", "--cap-drop", "all", container, "--", "bash")
        try:
            return self(*run, "-euo", "pipefail", "-c", script, is_to_fail=is_to_fail)
        finally:
            self("rm", container)


@contextlib.contextmanager
def storage() -> Iterator[Buildah]:
    """A place for images that is gone with the context, and what is mounted there."""
    with tempfile.TemporaryDirectory(prefix="dvt-images-") as name:
        try:
            yield Buildah(Path(name))
        finally:
            mounted = [each.mountpoint for each in psutil.disk_partitions(all=True) if each.mountpoint.startswith(name)]
            for place in sorted(mounted, reverse=True):  # what is within another goes first
                subprocess.run(["umount", "--lazy", place], check=False)


def provide_base(buildah: Buildah, image: str) -> str:
    """Have the image that the others begin with; tells what it is."""
    try:
        buildah("pull", image)
    except AssertionError:
        release, root = image.rpartition("-")[2], buildah.folder / "debian"
        packages = "--include=python3,python3-venv,ca-certificates"
        subprocess.run(["debootstrap", "--variant=minbase", packages, release, root], check=True, capture_output=True)
        (root / "usr" / "local" / "bin" / "python").symlink_to("/usr/bin/python3")
        container = buildah("from", "scratch").strip()
        buildah("add", "--quiet", container, str(root), "/")
        buildah("commit", "--quiet", "--rm", container, image)
        return f"{image} cannot be pulled here: a Debian {release} with its own Python stands in for it"
    return f"{image}, pulled"


def pip_of_this_machine(folder: Path) -> list[str]:
    """Options by which a build's pip finds packages as this machine's does: its settings, and the files they name."""
    told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings = dict(re.findall(r"(?m)^.*?\.([\w-]+)='(.*)'$", told.stdout))
    (folder / "pip.conf").write_text("\n".join(["[global]", *(f"{key} = {value}" for key, value in settings.items())]))
    words = [word for value in settings.values() for word in value.split()]
    named = {word for word in words if word.startswith("/")}
    named |= {
        str(Path(word.removeprefix("file://")).parent) for word in words if word.startswith("file:///")
    }  # an index
    mounts = {path: path for path in sorted(named) if Path(path).exists()} | {str(folder / "pip.conf"): "/etc/pip.conf"}
    return [word for path, place in mounts.items() for word in ("--volume", f"{path}:{place}:ro")]


def build(buildah: Buildah, file: Path, options: list[str]) -> list[str]:
    """Build by the commands in a Dockerfile's comments; the images' names."""
    images = []
    ignored = file.with_name("Dockerfile.dockerignore")
    if ignored.exists():
        options = [*options, "--ignorefile", str(ignored)]
    for command in re.findall(r"(?m)^#   docker build (.*)$", file.read_text()):
        begun = time.monotonic()
        words = shlex.split(command)
        buildah("bud", "--layers", "--pull-never", "--network", "host", "--isolation", "chroot", *options, *words)
        images.append(words[words.index("-t") + 1])
        print(f"{images[-1]}: built in {time.monotonic() - begun:.0f} s", flush=True)
    return images


def try_node(buildah: Buildah, image: str) -> None:
    """A node of Ray, which wants a token; on the image for processors also the job of infra/kuberay."""
    port, jobs_port = free_port(), free_port()
    start = f"ray start --head --node-ip-address=127.0.0.1 --port={port} --dashboard-port={jobs_port} --num-cpus=2"
    refusal = buildah.in_image(image, start, is_to_fail=True)
    assert "no authentication token was found" in refusal, refusal
    (check,) = (words for kind, words in dockerfile(FILES[0]) if kind == "HEALTHCHECK")
    script = [
        f"export RAY_AUTH_TOKEN={secrets.token_hex(32)}",
        f"{start} >/dev/null",
        "trap 'ray stop >/dev/null' EXIT",
    ]
    script.append(shlex.join(json.loads(check.partition("CMD ")[2])))
    if image.startswith("dvt-cpu"):
        job = yaml.safe_load((ROOT / "infra" / "kuberay" / "job-cpu.yaml").read_text())["spec"]["entrypoint"].strip()
        script += [
            "export DVT_STORAGE=$HOME/runs",
            f"ray job submit --address http://127.0.0.1:{jobs_port} -- {job} {OPTIONS}",
        ]
    told = buildah.in_image(image, "\n".join(script))
    print(f"{image}: a node does not start without a token, and is healthy with one", flush=True)
    print(
        *(line for line in told.splitlines() if re.search(r"epoch 1/1|^model  |succeeded", line)), sep="\n", flush=True
    )
    if image.startswith("dvt-cpu"):
        assert "succeeded" in told, told


def try_mlflow(buildah: Buildah, image: str) -> None:
    """The server, which wants its settings; `tests/integration/test_mlflow_server.py` starts it with them."""
    (entry,) = (words for kind, words in dockerfile(FILES[1]) if kind == "ENTRYPOINT")
    told = buildah.in_image(image, shlex.join(json.loads(entry)), is_to_fail=True)
    assert "MLFLOW_BACKEND_STORE_URI must be postgresql://" in told, told
    print(f"{image}: the server names the settings that it lacks, and does not start", flush=True)


def main() -> None:
    """Build and try all."""
    trials: tuple[Callable[[Buildah, str], None], ...] = (try_node, try_mlflow)
    (base,) = {words.split()[0] for file in FILES for kind, words in dockerfile(file) if "AS build" in words}
    with storage() as buildah:
        print(provide_base(buildah, base), flush=True)
        options = pip_of_this_machine(buildah.folder)
        for file, try_it in zip(FILES, trials, strict=True):
            for image in build(buildah, file, options):
                assert buildah.in_image(image, "id -u").strip() == USER
                try_it(buildah, image)


if __name__ == "__main__":
    assert os.geteuid() == 0, "images are built by root, as Debian's packages are installed in them"
    main()
