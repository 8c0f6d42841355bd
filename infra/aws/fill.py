#!/usr/bin/env python3
"""Prints a file of this folder with the settings of the environment in it: `fill.py infra/aws/cluster.yaml`.

Nothing that is set here is a secret: the cluster's token is a file that `ray up` copies. README.md lists the settings.
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

SETTING = re.compile(r"\$\{(DVT_\w+)\}")
RULES = {  # what a setting must match, and how that is told
    "DVT_AWS_REGION": (r"[a-z]{2}(-[a-z]+)+-\d", "a region such as eu-west-1"),
    "DVT_AWS_ACCOUNT": (r"\d{12}", "the 12 digits of an account"),
    "DVT_AMI": (r"ami-[0-9a-f]{8,17}", "an image such as ami-0123456789abcdef0"),
    "DVT_SUBNET": (r"subnet-[0-9a-f]{8,17}", "a subnet such as subnet-0123456789abcdef0"),
    "DVT_SECURITY_GROUP": (r"sg-[0-9a-f]{8,17}", "a security group such as sg-0123456789abcdef0"),
    "DVT_KEY_NAME": (r"[\w.-]+", "the name of a key pair"),
    "DVT_SSH_KEY": (r"[\w./~-]+", "the file of the key pair's private key"),
    "DVT_BUCKET": (r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "the name of a bucket, without s3://"),
}


def problems_of(text: str, env: Mapping[str, str]) -> list[str]:
    """One sentence for each setting in the text that is missing or wrong."""
    found = []
    for name in sorted(set(SETTING.findall(text))):
        pattern, told = RULES[name]
        value = env.get(name, "")
        if not re.fullmatch(pattern, value):
            found.append(f"{name} must be {told}, got {value or 'none'}")
    return found


def filled(text: str, env: Mapping[str, str]) -> str:
    """The text with each setting in its place."""
    return SETTING.sub(lambda found: env[found[1]], text)


def main(words: list[str]) -> int:
    """Run the command; returns its exit code."""
    if len(words) != 1:
        print("usage: fill.py FILE", file=sys.stderr)
        return 2
    text = Path(words[0]).read_text(encoding="utf-8")
    found = problems_of(text, os.environ)
    for sentence in found:
        print(f"fill.py: {sentence}; README.md beside it tells how it is set", file=sys.stderr)
    if not found:
        print(filled(text, os.environ), end="")
    return 2 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
