"""The Prefect block that says where jobs are kept, and holds the credentials for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from prefect.blocks.core import Block
from prefect_aws.s3 import S3Bucket
from pydantic import Field, SecretStr, model_validator

from simyard.core.errors import RequestError
from simyard.store.backend import parse_url
from simyard.store.store import Store

CREDENTIALS_LIVE = timedelta(minutes=10)
"""Time for which a bucket block's credentials are kept. The shortest role lives 15 minutes."""


class JobStore(Block):
    """Store of jobs: a folder or a bucket, with the credentials for it.

    Give either `url`, or `bucket` to use an S3 Bucket block that is there already. What is left empty comes from the
    `AWS_*` environment variables of the process that opens the store.

    Example:
        Save a block once:
        ```python
        from simyard.blocks.job_store import JobStore

        JobStore(
            url="s3://robots/simyard",
            endpoint_url="http://127.0.0.1:9000",
            access_key_id="robot",
            secret_access_key="…",
        ).save("lab")
        ```
        Then name it wherever a store is asked for, as `job-store/lab`, or open it:
        ```python
        store = JobStore.load("lab").open()
        store.list_dirs("jobs")
        ```
    """

    _block_type_name = "Job Store"
    _block_type_slug = "job-store"
    _description = "A folder or a bucket where simyard keeps jobs, checkpoints and results."

    url: str | None = Field(
        default=None,
        title="URL",
        description="s3://BUCKET/PREFIX, file:///FOLDER or the path of a folder. Leave empty to use a bucket block.",
        examples=["s3://robots/simyard"],
    )
    endpoint_url: str | None = Field(
        default=None,
        title="Endpoint URL",
        description="The S3 server, such as http://127.0.0.1:9000. Leave empty for AWS.",
    )
    region: str | None = Field(
        default=None, title="Region", description="The bucket's region, such as eu-central-1; us-east-1 when empty."
    )
    access_key_id: str | None = Field(
        default=None, title="Access key ID", description="Leave both keys empty to use the machine's own credentials."
    )
    secret_access_key: SecretStr | None = Field(
        default=None, title="Secret access key", description="The secret that belongs to the access key ID."
    )
    bucket: S3Bucket | None = Field(
        default=None,
        title="S3 bucket",
        description="An S3 Bucket block to use instead of the fields above, with its folder, credentials and endpoint.",
    )
    addressing_style: Literal["path", "virtual"] | None = Field(
        default=None,
        title="Addressing style",
        description="Whether the bucket's name is in the path or in the host's name. Empty: the latter on AWS.",
    )
    checksum: Literal["sha256", "none"] | None = Field(
        default=None,
        title="Checksum",
        description="Whether the server is given a checksum to keep with each object. Empty: on AWS.",
    )
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = Field(
        default=None,
        title="Server-side encryption",
        description="How the server encrypts what is written. Empty: as the bucket says.",
    )
    sse_kms_key_id: str | None = Field(
        default=None, title="KMS key", description="The key of aws:kms and aws:kms:dsse; the account's own when empty."
    )
    sse_bucket_key: bool | None = Field(
        default=None, title="Bucket key", description="Whether aws:kms uses a bucket key. Empty: as the bucket says."
    )

    @model_validator(mode="after")
    def _check(self) -> JobStore:
        # A RequestError goes through pydantic as it is. A ValueError would not: its text quotes the input, secrets too.
        own = [name for name in type(self).model_fields if name not in _BESIDE_A_BUCKET and getattr(self, name)]
        if self.bucket and own:
            raise _refused(f"a bucket and also {', '.join(map(repr, own))}")
        if not self.bucket and not self.url:
            raise _refused("neither a url nor a bucket")
        if self.url:
            parse_url(self.url)
        return self

    def open(self, prefix: str = "") -> Store:
        """Open the store.

        Args:
            prefix: A part of it, to be a store of its own; empty for all of it.

        Raises:
            RequestError: A field is malformed.
            StoreError: The folder cannot be made.
        """
        if self.bucket:
            return _open_bucket(self.bucket, prefix, self._written())
        secret = self.secret_access_key
        options = {
            "endpoint_url": self.endpoint_url,
            "region": self.region,
            "access_key_id": self.access_key_id,
            "secret_access_key": secret.get_secret_value() if secret else None,
            **self._written(),
        }
        url = parse_url(self.url or "").url
        return Store.open(_join(url, prefix), options={name: value for name, value in options.items() if value})

    def _written(self) -> dict[str, str | None]:
        """Return the options that a bucket block has no fields for."""
        return {
            "addressing_style": self.addressing_style,
            "checksum": self.checksum,
            "sse": self.sse,
            "sse_kms_key_id": self.sse_kms_key_id,
            "sse_bucket_key": None if self.sse_bucket_key is None else str(self.sse_bucket_key).lower(),
        }


_BESIDE_A_BUCKET = ("bucket", "addressing_style", "checksum", "sse", "sse_kms_key_id", "sse_bucket_key")


def _join(url: str, prefix: str) -> str:
    return f"{url}/{prefix}" if prefix else url


def _open_bucket(bucket: S3Bucket, prefix: str, own: Mapping[str, str | None]) -> Store:
    client = bucket.credentials.aws_client_parameters
    if client.verify is False:
        raise RequestError(
            "The bucket block's AWS client parameters have verify=False.",
            code="bad_store_option",
            advice="Name the server's certificate authority in verify_cert_path instead.",
        )
    # `verify` had the path before `verify_cert_path` came.
    ca_bundle = client.verify_cert_path or (client.verify if isinstance(client.verify, Path) else None)
    style = ((client.config or {}).get("s3") or {}).get("addressing_style")
    options = {
        "endpoint_url": client.endpoint_url,
        "region": bucket.credentials.region_name,
        "ca_bundle": str(ca_bundle) if ca_bundle else None,
        **own,
        "addressing_style": own["addressing_style"] or (style if style != "auto" else None),
    }
    return Store.open(
        _join(f"s3://{bucket.bucket_name}/{bucket.bucket_folder.strip('/')}".rstrip("/"), prefix),
        options={name: value for name, value in options.items() if value},
        credentials=_BucketCredentials(bucket),
    )


@dataclass(frozen=True)
class _BucketCredentials:
    """Gets a bucket block's credentials the way boto3 does: keys, a profile, a role, or the machine's."""

    bucket: S3Bucket

    def __call__(self) -> Mapping[str, Any]:
        expires_at = datetime.now(UTC) + CREDENTIALS_LIVE
        found = self.bucket.credentials.get_boto3_session().get_credentials()
        if found is None:
            raise LookupError("the bucket block has no credentials, and neither has the machine")
        keys = found.get_frozen_credentials()
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": expires_at,
        }


def _refused(problem: str) -> RequestError:
    return RequestError(
        f"A job store has {problem}.",
        code="bad_store_url",
        advice="Give a url with what belongs to it, or a bucket alone.",
    )
