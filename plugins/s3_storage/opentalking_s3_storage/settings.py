"""The settings of the S3 store."""

from __future__ import annotations

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from opentalking_core import InvalidURL


class S3Settings(BaseSettings):
    """Each field is read from the environment variable OPENTALKING_S3_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="OPENTALKING_S3_", extra="ignore", frozen=True)

    timeout_seconds: float = Field(
        default=10.0, ge=0.5, le=600, description="The longest time that a request to S3 may take, including retries."
    )
    grace_seconds: float = Field(
        default=3600.0, ge=0, description="Objects without a manifest are removed when they are older than this."
    )


def read_settings() -> S3Settings:
    """Return the settings from the environment. Raises InvalidURL, which names the wrong variable and its value."""
    try:
        return S3Settings()
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        variable = f"OPENTALKING_S3_{str(fault['loc'][0]).upper()}"
        raise InvalidURL(f"{variable}={fault['input']}: {fault['msg']}") from None
