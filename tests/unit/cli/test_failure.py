"""How commands end: credentials on the command line are refused, and no closing sentence tells a secret."""

import pytest

from dvt.cli.failure import FAILED, TYPED_WRONG, exit_code_of
from dvt.tracking import TrackingError
from dvt.train.errors import Terminated


def never(words: list[str]) -> int:
    raise AssertionError("must not be run")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--run.tracking-uri", "postgresql://ann:pa55w0rd@db/mlflow"],
            (
                "--run.tracking-uri must carry no credentials on a command line, which others can see; give them by "
                "MLFLOW_TRACKING_URI"
            ),
        ),
        (
            ["--search.study-uri=postgresql://ann:pa55w0rd@db/study"],
            (
                "--search.study-uri must carry no credentials on a command line, which others can see; give them by "
                "DVT_STUDY_URI"
            ),
        ),
        (
            ["--data.root", "s3://KEY:pa55w0rd@bucket/images"],
            (
                "--data.root must carry no credentials on a command line, which others can see; give them by the "
                "environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ),
        ),
        (
            ["run", "s3://bucket/x?token=pa55w0rd"],
            (
                "an address must carry no credentials on a command line, which others can see; give them by the "
                "environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ),
        ),
    ],
)
def test_credentials_on_a_command_line_are_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert exit_code_of(never, words) == TYPED_WRONG
    assert capsys.readouterr().err == f"dvt: {sentence}\n"


def test_a_closing_sentence_tells_no_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted/secret")

    def fail(words: list[str]) -> int:
        raise TrackingError(f"refused planted/secret at http://ann:pa55w0rd@host ({words})")

    assert exit_code_of(fail, ["--a", "1", "--log-format", "text"]) == FAILED
    assert capsys.readouterr().err == "dvt: refused *** at http://***@host (['--a', '1'])\n"


def test_a_log_format_that_is_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(never, ["--log-format", "xml"]) == TYPED_WRONG
    assert capsys.readouterr().err == "dvt: --log-format must be text or json, got 'xml'\n"


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (Terminated, 75, "ended by SIGTERM, resumable; run the same command again to go on from the last checkpoint"),
        (KeyboardInterrupt, 130, "interrupted; run the same command again to go on from the last checkpoint"),
    ],
)
def test_ends_that_the_same_command_goes_on_after(
    error: type[BaseException], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(words: list[str]) -> int:
        raise error

    assert exit_code_of(end, []) == code
    assert capsys.readouterr().err == f"dvt: {told}\n"
