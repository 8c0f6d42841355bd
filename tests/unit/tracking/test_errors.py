import pytest
from mlflow.exceptions import MlflowException

from dvt.tracking import TrackingError, without_credentials
from dvt.tracking.errors import one_sentence


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://host:5000", "http://host:5000"),
        ("https://ann:pa55@host:5000/path", "https://host:5000/path"),
        ("postgresql+psycopg2://ann:p%40ss@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        ("s3://AKIA:secret@bucket/prefix", "s3://bucket/prefix"),
        ("s3://bucket/p?region=eu&secret_key=abc", "s3://bucket/p?region=eu"),
        ("s3://bucket/p?access_key=abc&secretKey=def", "s3://bucket/p"),
        ("sqlite:////srv/ann@work/mlflow.db", "sqlite:////srv/ann@work/mlflow.db"),
        ("/plain/folder", "/plain/folder"),
    ],
)
def test_credentials_are_left_out(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


def test_a_failure_is_one_sentence_without_secrets() -> None:
    uri = "http://ann:pa55@host"
    with pytest.raises(TrackingError) as caught, one_sentence("open the run", uri):
        raise MlflowException(f"API request to {uri} failed.\nTraceback: many lines")
    assert (
        str(caught.value) == "MLflow at http://host must open the run, got an error (API request to http://host failed)"
    )


def test_a_full_disk_is_one_sentence() -> None:
    with pytest.raises(TrackingError) as caught, one_sentence("keep the files", "sqlite:////m.db"):
        raise OSError(28, "No space left on device")
    assert str(caught.value) == (
        "MLflow at sqlite:////m.db must keep the files, got an error ([Errno 28] No space left on device)"
    )


def test_our_own_mistakes_pass_through() -> None:
    with pytest.raises(KeyError), one_sentence("open the run", "http://host"):
        raise KeyError("a bug")
