"""Credentials lent to one attempt: of the site's role, narrowed to the store of its project, until it must be over.

Without a role (`SIMYARD_ATTEMPT_ROLE`) an attempt has what its pool has: as a rule, the whole store.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import get_session

from simyard.blocks.reference import BLOCK_PREFIX
from simyard.core.errors import RequestError, StoreError
from simyard.core.specs import JobSpec
from simyard.store.backend import Access, parse_url
from simyard.store.keys import PROJECTS, SERVICE, project_of

ROLE = "SIMYARD_ATTEMPT_ROLE"
BESIDES_S = 3600.0
"""Seconds for what is not the work: waiting for a worker, fetching inputs, sending what is left."""
LONGEST_S = 12 * 3600
"""Seconds that AWS gives a role's credentials at most."""
_ROLE_ARN = re.compile(r"arn:(aws[a-z-]*):iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,512}")
_OBJECTS = ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload", "ListMultipartUploadParts")


def lend(spec: JobSpec, store_ref: str) -> dict[str, str]:
    """Return the variables with which an attempt reaches its own store and no other; none where no role is set.

    Args:
        spec: The job, whose time limit says how long they are good.
        store_ref: Its store; a folder needs no credentials.

    Raises:
        RequestError: They cannot be had for this store, or for so long.
        StoreError: AWS refuses the role.
    """
    role = os.environ.get(ROLE)
    if not role or not store_ref.startswith(("s3://", BLOCK_PREFIX)):
        return {}
    if store_ref.startswith(BLOCK_PREFIX):
        raise RequestError(
            f"{ROLE} is set, and the store is the block {store_ref!r}, whose keys every attempt would read.",
            code="bad_store",
            advice="Name the bucket: s3://BUCKET/PREFIX.",
        )
    if not (partition := _ROLE_ARN.fullmatch(role)):
        raise RequestError(
            f"{ROLE} is {role!r}, no role.", code="bad_setting", advice="Give an ARN: arn:aws:iam::ACCOUNT:role/NAME."
        )
    duration_s = spec.limits.wall_s + BESIDES_S
    if duration_s > LONGEST_S:
        raise RequestError(
            f"An attempt may take {spec.limits.wall_s:,.0f} s, and credentials of a role last {LONGEST_S:,} s at most.",
            code="too_long",
            advice=f"Set timeouts.wallSeconds to {LONGEST_S - BESIDES_S:.0f} or less.",
        )
    region, policy = Access.decide({}, None).region, _policy(store_ref, partition[1])
    patience = Config(connect_timeout=10, read_timeout=20, retries={"total_max_attempts": 3})
    try:
        client: Any = get_session().create_client("sts", region_name=region, config=patience)
        answer = client.assume_role(
            RoleArn=role, RoleSessionName=spec.job_id, DurationSeconds=int(duration_s), Policy=policy
        )
    except (BotoCoreError, ClientError) as error:
        raise StoreError(
            f"The role {role!r} lends no credentials for {duration_s:.0f} s: {error}",
            code="no_credentials",
            advice="Let this machine assume it, and its sessions last 12 h: "
            "aws iam update-role --role-name NAME --max-session-duration 43200.",
        ) from error
    lent = answer["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": lent["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": lent["SecretAccessKey"],
        "AWS_SESSION_TOKEN": lent["SessionToken"],
    }  # fmt: skip


def _policy(store_ref: str, partition: str) -> str:
    """Return the policy of a project's attempts: its store, without the stores of others that lie in it."""
    bucket, _, prefix = parse_url(store_ref).url.removeprefix("s3://").partition("/")
    own = f"arn:{partition}:s3:::{bucket}/{prefix}/" if prefix else f"arn:{partition}:s3:::{bucket}/"
    statements: list[dict[str, Any]] = [
        {"Effect": "Allow", "Action": [f"s3:{action}" for action in _OBJECTS], "Resource": f"{own}*"},
        # Without the right to list, S3 answers 403 for an object that is not there.
        {
            "Effect": "Allow", "Action": ["s3:ListBucket", "s3:ListBucketMultipartUploads"],
            "Resource": f"arn:{partition}:s3:::{bucket}",
        },
        {"Effect": "Allow", "Action": ["kms:GenerateDataKey", "kms:Decrypt"], "Resource": "*"},
    ]  # fmt: skip
    if project_of(store_ref) == "default":
        others = [f"{own}{PROJECTS}/*", f"{own}{SERVICE}/*"]
        statements.append({"Effect": "Deny", "Action": "s3:*", "Resource": others})
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))
