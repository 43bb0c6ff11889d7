"""Where credentials come from: the environment, or a profile in ~/.aws."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from opentalking_core import StoreUnavailable

if TYPE_CHECKING:
    from obstore.store import S3CredentialProvider

RETRY_SECONDS = 30  # when a client may try again after a problem with the configuration

_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)


def has_credentials() -> bool:
    """Return whether the environment names credentials, which obstore then uses by itself."""
    return any(map(os.environ.get, _VARIABLES))


def profile_credentials() -> S3CredentialProvider | None:
    """Return the credentials of a profile in ~/.aws, which obstore doesn't read, or None to let obstore find others.

    Raises:
        StoreUnavailable: there is a profile, but boto3 is missing or can't use the profile.
    """
    profile = os.environ.get("AWS_PROFILE")
    default = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    if has_credentials() or not (profile or default.is_file()):
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider()
    except ImportError:
        remedy = "pip install 'opentalking-s3-storage[profiles]', or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise StoreUnavailable(
            f"profiles of {default.parent} need boto3; {remedy}", retry_after=RETRY_SECONDS
        ) from None
    except Exception as error:  # botocore's, whose text names the profile
        raise StoreUnavailable(
            f"profile {profile or 'default'!r} can't be used: {error}", retry_after=RETRY_SECONDS
        ) from None
