"""What must not be written down: credentials in addresses, and secrets in any text that leaves a process.

Addresses are cleaned where they are kept or shown (`without_credentials`). `redacted` is the last line of defence:
every log record, every sentence that a command ends with and every traceback goes through it.
"""

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

HIDDEN = "***"
_NAMES = r"secret|token|passw(?:or)?d|passwd|(?:access|api|account|private|secret)[-_]?key(?:[-_]?id)?"
# Of an address's query.
_FIELDS = r"secret|token|passw|pwd|credential|signature|(?<![a-z])sig(?![a-z])|access_?key|api_?key|odbc_connect"
_SECRET_FIELD = re.compile(_FIELDS, re.IGNORECASE)
_SECRET_VARIABLE = re.compile(rf"(?:{_NAMES})$", re.IGNORECASE)
_ADDRESS_VARIABLE = re.compile(r"(?:URI|URL|DSN|PROXY|ADDRESS)$", re.IGNORECASE)
_SHORTEST = 6  # characters of a value that is looked for in texts; shorter ones are part of ordinary words

# `scheme://user:password@`; an @ behind the first slash belongs to the path. But a password may hold slashes, as
# databases' addresses are read, unless it begins as a port does: `host:5000/name@version`.
_USER_INFO = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)"
    r"(?P<info>[^\s/@'\"<>]*|[^\s/:@'\"<>]*:(?!\d{1,5}[/?#])[^\s@'\"<>]*)@",
    re.IGNORECASE,
)
_QUERY_FIELD = re.compile(rf"(?P<name>[?&][^=&\s]*(?:{_FIELDS})[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE)
# `password=...`, `"aws_secret_access_key": "..."`, but not `token_grid=7`: the name must end with the word.
_ASSIGNED = re.compile(rf"(?P<name>\b[\w-]*(?:{_NAMES})['\"]?\s*[=:]\s*['\"]?)[^\s'\",;)}}\]]{{4,}}", re.IGNORECASE)
_HEADER = re.compile(
    r"(?P<name>\bAuthorization['\"]?\s*[=:]\s*['\"]?(?:\w+\s+)?|\bBearer\s+)[A-Za-z0-9+/._~=-]{8,}", re.IGNORECASE
)
_AWS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")


def without_credentials(uri: str) -> str:
    """An address without user name, password and those query fields that carry secrets."""
    parts = urlsplit(uri)
    if "@" in parts.netloc:
        uri = uri.replace(f"{parts.netloc}", parts.netloc.rpartition("@")[2], 1)
    elif (found := _USER_INFO.match(uri)) is not None:
        uri = found["scheme"] + uri[found.end() :]
    query = urlsplit(uri).query
    fields = parse_qsl(query, keep_blank_values=True)
    if any(_SECRET_FIELD.search(name) for name, _ in fields):
        kept = urlencode([(name, value) for name, value in fields if not _SECRET_FIELD.search(name)])
        uri = uri.replace(f"?{query}", f"?{kept}" if kept else "", 1)
    return uri


def has_credentials(uri: str) -> bool:
    """Whether an address carries something that `without_credentials` leaves out."""
    return "://" in uri and without_credentials(uri) != uri


def without_credentials_in(value: Any) -> Any:
    """Plain nested data with all its addresses as of `without_credentials`."""
    if isinstance(value, Mapping):
        return {key: without_credentials_in(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_credentials_in(item) for item in value)
    return without_credentials(value) if isinstance(value, str) and "://" in value else value


def secret_values(env: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The secrets that an environment holds, longest first, so that none is hidden in part by another.

    Args:
        env: The environment; None is this process's.
    """
    found = set()
    for name, value in (os.environ if env is None else env).items():
        if _SECRET_VARIABLE.search(name):
            found.add(value.strip())
        elif _ADDRESS_VARIABLE.search(name) and "://" in value:
            password = _password_of(value)
            found |= {password, unquote(password)}
    return tuple(sorted((each for each in found if len(each) >= _SHORTEST), key=len, reverse=True))


def redacted(text: str, secrets: tuple[str, ...] | None = None) -> str:
    """A text with `***` in place of what is, or looks like, a secret.

    Args:
        text: What is about to be written.
        secrets: Values to hide wherever they stand; None is what this process's environment holds.
    """
    for secret in secret_values() if secrets is None else secrets:
        text = text.replace(secret, HIDDEN)
    text = _USER_INFO.sub(rf"\g<scheme>{HIDDEN}@", text)
    for pattern in (_QUERY_FIELD, _HEADER, _ASSIGNED):
        text = pattern.sub(rf"\g<name>{HIDDEN}", text)
    return _AWS_KEY.sub(HIDDEN, text)


def _password_of(address: str) -> str:
    found = _USER_INFO.match(address)
    return "" if found is None else found["info"].partition(":")[2]
