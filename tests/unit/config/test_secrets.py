"""Secrets: addresses without credentials, and texts in which nothing that is or looks like a secret is left."""

import pytest

from dvt.config.secrets import (
    has_credentials,
    redacted,
    secret_values,
    without_credentials,
    without_credentials_in,
)

ENV = {
    "AWS_ACCESS_KEY_ID": "plantedkeyid",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+key",
    "MLFLOW_TRACKING_PASSWORD": "hush-hush",
    "MLFLOW_TRACKING_USERNAME": "ann.of.the.team",
    "MLFLOW_TRACKING_URI": "postgresql://ann:p%40ssw0rd@db/mlflow",
    "PGPASSWORD": "elephant",
    "RAY_AUTH_TOKEN": "0123456789abcdef",
    "RAY_AUTH_TOKEN_PATH": "/srv/token-file",
    "SHORT_TOKEN": "abc",
    "HTTP_PROXY": "http://[broken",
}


@pytest.mark.parametrize(
    ("uri", "has_some"),
    [
        ("http://host:5000", False),
        ("https://ann:pa55@host:5000/path", True),
        ("s3://bucket/p?region=eu&secret_key=abc", True),
        ("ann:pa55@host", False),
        ("postgresql://ann:Zx9/kL2@db/runs", True),
        ("postgresql+psycopg://ann:Zx9#kL?2/m@db/runs", True),
        ("http://host:5000/models/a@v1", False),
        ("sqlite:////srv/ann@work/runs.db", False),
        ("s3://bucket/a:b@c", False),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dann%3BPWD%3Dx", True),
        ("https://host/blob?sv=1&sig=abc", True),
        ("https://host/blob?signal=abc", False),
        ("/srv/ann@work", False),
    ],
)
def test_an_address_has_credentials(uri: str, has_some: bool) -> None:
    assert has_credentials(uri) is has_some


def test_credentials_are_left_out_wherever_they_stand() -> None:
    tree = {"run": {"uri": "http://a:b@host"}, "roots": ["s3://k:s@bucket/x", 3], "pair": ("x", None), "name": "a@b"}
    assert without_credentials_in(tree) == {
        "run": {"uri": "http://host"},
        "roots": ["s3://bucket/x", 3],
        "pair": ("x", None),
        "name": "a@b",
    }
    assert without_credentials("s3://bucket/p?token=a&part=1") == "s3://bucket/p?part=1"
    for password in ("Zx9/kL2", "Zx9#kL2", "Zx9?kL=2", "Z/x#9?k"):
        address = f"postgresql+psycopg://ann:{password}@db:5432/runs"
        assert without_credentials(address) == "postgresql+psycopg://db:5432/runs"
        assert secret_values({"MLFLOW_TRACKING_URI": address}) == (password,)


def test_secrets_of_an_environment_are_known_by_their_names() -> None:
    found = secret_values(ENV)
    assert set(found) == {
        "planted/secret+key",
        "0123456789abcdef",
        "plantedkeyid",
        "p%40ssw0rd",
        "p@ssw0rd",
        "hush-hush",
        "elephant",
    }
    lengths = [len(each) for each in found]
    assert lengths == sorted(lengths, reverse=True)  # none is hidden in part by another


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the key hush-hush was refused", "the key *** was refused"),
        ("FATAL: p@ssw0rd is wrong", "FATAL: *** is wrong"),
        ("at postgresql://ann:other1@db/mlflow.", "at postgresql://***@db/mlflow."),
        ("got http://ann:Zx9/kL2mNq@127.0.0.1:9, which", "got http://***@127.0.0.1:9, which"),
        ("at http://host:5000/a@v1 and http://host:80/b@v2", "at http://host:5000/a@v1 and http://host:80/b@v2"),
        ("at s3://KEY:SECRET@bucket/a and http://host/x@y", "at s3://***@bucket/a and http://host/x@y"),
        ("GET /a?X-Amz-Signature=abcdef&part=1", "GET /a?X-Amz-Signature=***&part=1"),
        ("password=letmein, user=ann", "password=***, user=ann"),
        ('{"aws_secret_access_key": "abcd1234"}', '{"aws_secret_access_key": "***"}'),
        ("Authorization: Bearer abcdefgh12345", "Authorization: Bearer ***"),
        ("of AKIAIOSFODNN7EXAMPLE in us-east-1", "of *** in us-east-1"),
    ],
)
def test_a_text_tells_no_secret(text: str, shown: str) -> None:
    assert redacted(text, secret_values(ENV)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "cascade.token_grid=14 must be at most 7",
        "num_tokens: 196, token_grids: [7, 10]",
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        "the server refused the credentials in use (403 AccessDenied); check AWS_ACCESS_KEY_ID",
        "Basic training; ann@example.org",
        "sqlite:////srv/ann@work/mlflow.db",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text, ()) == text
