"""How S3 is opened, the same way by all that reads and writes there.

Credentials, endpoint, region and profile come from where every AWS tool takes them: AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION or AWS_DEFAULT_REGION, AWS_PROFILE and its files, or the machine's
role. FSSPEC_S3_ANON=true reads public buckets without any, as everywhere in fsspec.

There are two ways in, with the same settings. `open_filesystem` is s3fs, for whoever needs a file system.
`open_client` is botocore, which s3fs stands on, for images: 8 MB through the event loop of s3fs take 14 ms of processor
time, through the urllib3 of botocore 2 (without what botocore adds).
"""

import os
from functools import cache
from typing import Any

import botocore.session
import fsspec
import s3fs
from botocore import UNSIGNED
from botocore.config import Config
from botocore.loaders import Loader, create_loader

from dvt.data.s3_failures import is_passing

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10, 30  # of one try; of READ a pause in an answer
FILESYSTEM_TRIES = 15  # of a request through s3fs; its waits grow from 0.1 to 15 s and make 100 s together
NUM_CONNECTIONS = 16  # most requests at once


class PatientS3FileSystem(s3fs.S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """s3fs that asks again after all that passes: s3fs 2026.9 gives up at once where a connection is reset or refused.

    Picklable; listings are not kept, as they would hide what other processes write.
    """

    retries = FILESYSTEM_TRIES

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # s3fs has one handler a process; set here, as whoever unpickles a file system comes through here too.
        s3fs.core.set_custom_error_handler(is_passing)


def open_filesystem(address: str, tries: int = FILESYSTEM_TRIES) -> tuple[Any, str]:
    """The file system of an address, and the path there.

    Args:
        address: A path or an address of any kind that fsspec knows.
        tries: How often a request to a bucket is made, in this process, until it succeeds.

    Raises:
        ImportError: If there is no such kind of address, or the package for it is not installed.
    """
    if address.startswith("s3://"):
        # No instance is used again: it depends on the environment, which fsspec's cache of them does not look at.
        filesystem = PatientS3FileSystem(
            use_listings_cache=False, skip_instance_cache=True, **_settings(NUM_CONNECTIONS)
        )
        filesystem.retries = tries
        return filesystem, str(filesystem._strip_protocol(address))
    try:
        filesystem, path = fsspec.core.url_to_fs(address, use_listings_cache=False)
    except ValueError as error:  # what decoders raise for a damaged image; here it is the address
        raise ImportError(str(error)) from error
    return filesystem, str(path)


def open_client(num_connections: int = NUM_CONNECTIONS) -> tuple[Any, dict[str, Any]]:
    """A client of botocore for any bucket, which tries once; and what goes with each of its requests.

    Args:
        num_connections: Most requests at once.

    Raises:
        BotoCoreError: If there is no such profile, or the settings are none.
    """
    # Never connected: it knows what the environment and fsspec's own settings say.
    told = s3fs.S3FileSystem(asynchronous=True, skip_instance_cache=True, **_settings(num_connections))
    config = {**told.config_kwargs, **({"signature_version": UNSIGNED} if told.anon else {})}
    keys = {
        "aws_access_key_id": told.key,
        "aws_secret_access_key": told.secret,
        "aws_session_token": told.token,
        "endpoint_url": told.endpoint_url,
    }
    session = botocore.session.Session(profile=told.kwargs.get("profile"))
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    given = {name: value for name, value in keys.items() if value is not None}
    client = session.create_client(
        "s3", use_ssl=told.use_ssl, config=Config(**config), **{**given, **told.client_kwargs}
    )
    return client, told.req_kw


@cache
def _loader(folders: str | None) -> Loader:
    """What reads botocore's descriptions of S3, once for a process and those forked from it, as each epoch does."""
    return create_loader(folders)


def _settings(num_connections: int) -> dict[str, Any]:
    """What s3fs is opened with."""
    region = os.environ.get("AWS_REGION")  # botocore reads AWS_DEFAULT_REGION alone
    return {
        "client_kwargs": {"region_name": region} if region else {},
        "config_kwargs": {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "max_pool_connections": num_connections,
            "retries": {"total_max_attempts": 1},  # trying again is ours alone, or it would multiply
        },
    }
