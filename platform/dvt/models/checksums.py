"""SHA-256 of the files of a registered model: what lies on a disk or in a bucket for years is checked before use.

It tells damage and files of different versions mixed up, not a forger, who would write the checksums too.
"""

import hashlib
import json
from pathlib import Path

CHECKSUMS = "checksums.json"  # beside the files that it is of
_ADVICE = "copy the model's folder again, or register the model again"


class ChecksumError(RuntimeError):
    """A file of a model is not the one that was registered; the message is one sentence that names it."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path) -> Path:
    """Write the checksums of all files that lie in a folder into it; returns where."""
    target = folder / CHECKSUMS
    digests = {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path != target}
    target.write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
    return target


def check_files(folder: Path) -> None:
    """Refuse files that are not what their checksums say; a folder without checksums, as they once were, passes.

    Args:
        folder: With the files and `CHECKSUMS` in it.

    Raises:
        ChecksumError: If a file is missing or another, or the checksums cannot be read.
    """
    told = folder / CHECKSUMS
    if not told.exists():
        return
    try:
        digests = json.loads(told.read_text(encoding="utf-8"))
        expected = {str(name): str(digest) for name, digest in digests.items()}
        if any(Path(name).name != name or name in ("", "..") for name in expected):
            raise ValueError("a name that leads out of the folder")
    except (OSError, ValueError, AttributeError) as error:
        raise ChecksumError(f"{told} must hold a checksum for each file, got something else; {_ADVICE}") from error
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            raise ChecksumError(f"{path} must be there as {CHECKSUMS} says, got no such file; {_ADVICE}")
        if file_digest(path) != digest:
            raise ChecksumError(f"{path} must have the checksum in {CHECKSUMS}, got another; {_ADVICE}")
