"""`simyard deploy`: work pools, deployments, limits and the store's block, sent to a Prefect server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from simyard.cli.prefect_server import ADVICE, require_access, why_open
from simyard.cli.shared import STORE, Command
from simyard.core.errors import RequestError

if TYPE_CHECKING:
    from simyard.blocks.job_store import JobStore


@click.command(cls=Command)
@click.option("--pool", metavar="NAME", help="A pool of GPU machines; without it what prefect.yaml has is sent.")
@click.option(
    "--type",
    "pool_type",
    default="process",
    show_default=True,
    metavar="TYPE",
    help="Who starts an attempt: process, docker, kubernetes or ecs.",
)
@click.option("--image", metavar="IMAGE", help="Of the pool's containers.")
@click.option("--gpus", type=click.IntRange(0, 100_000), help="GPUs that the pool's jobs may hold together.")
@click.option(
    "--project-gpus", multiple=True, metavar="PROJECT=N", help="GPUs that a project's jobs may hold together."
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A variable of the base job template.")
@STORE
@click.option("--block", metavar="NAME", help="Save job-store/NAME: --store with the AWS_* credentials of this shell.")
@click.option(
    "--notify",
    metavar="NAME=URL",
    help="Tell a Slack webhook, an http(s) address or mailto://… of jobs; docs/notifications.md.",
)
@click.option(
    "--notify-on",
    metavar="WHAT,…",
    default="",
    help="With --notify: end, failure, stall, budget, promotion; left out, all but end.",
)
@click.option("--no-notify", metavar="NAME", help="Tell this receiver nothing any more.")
@click.option("--accept-nvidia-eula", "accept_eula", is_flag=True, help="For all jobs of the pool.")
@click.option("--json", "as_json", is_flag=True, help="Print what changed as one JSON object.")
def deploy(
    pool: str | None,
    pool_type: str,
    image: str | None,
    gpus: int | None,
    project_gpus: tuple[str, ...],
    settings: tuple[str, ...],
    store: str | None,
    block: str | None,
    notify: str | None,
    notify_on: str,
    no_notify: str | None,
    accept_eula: bool,
    as_json: bool,
) -> None:
    """Send pools, deployments and limits to Prefect. The server is that of PREFECT_API_URL.

    Done twice it changes nothing.
    """
    url = _require_server()
    # Importing Prefect takes seconds, and a bad address needs none.
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from simyard.deployments import apply, limit_of_project
    from simyard.deployments.notify import Receiver, apply_receiver, remove_receiver
    from simyard.tasks.shared.api_keys import check_project

    # All that was asked for is checked before anything is sent.
    plan: apply.PoolPlan | None = None
    if pool is not None:
        plan = apply.PoolPlan(
            name=pool, type=pool_type, image=image, gpus=gpus, accept_eula=accept_eula,
            variables=dict(_pairs(settings, "--set")),
        )  # fmt: skip
        plan.template()
    else:
        of_pools = {
            "--type": pool_type != "process", "--image": image, "--set": settings, "--gpus": gpus is not None,
            "--accept-nvidia-eula": accept_eula,
        }  # fmt: skip
        if given := next((option for option, is_given in of_pools.items() if is_given), None):
            raise RequestError(f"{given} needs --pool.", code="bad_command", advice="Name the pool with --pool NAME.")
    limits: dict[str, int] = {}
    for project, slots in dict(_pairs(project_gpus, "--project-gpus")).items():
        if not isinstance(slots, int) or isinstance(slots, bool) or not 0 <= slots <= 100_000:
            raise RequestError(
                f"--project-gpus {project}={slots!r} is no number of GPUs.",
                code="bad_setting", advice="Give a whole number, 0 or more.",
            )  # fmt: skip
        limits[limit_of_project(check_project(project))] = slots
    saved = _block(store, block)
    if notify_on and notify is None:
        raise RequestError(
            "--notify-on needs --notify.", code="bad_command", advice="Name a receiver: --notify NAME=URL."
        )
    receiver = Receiver.checked(notify, notify_on) if notify is not None else None
    if danger := why_open(url):
        click.echo(f"warning: {danger}. {ADVICE}", err=True)

    changes: dict[str, str] = {}

    def on_change(what: str, change: str) -> None:
        changes[what] = change
        if not as_json:
            click.echo(f"{change:10} {what}")

    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        if plan is None and not limits and saved is None and receiver is None and no_notify is None:
            apply.apply_prefect_file(client, lambda name: on_change(f"deployment {name}", "sent"))
        if plan is not None:
            apply.apply_pool(client, plan, on_change)
        for name, slots in limits.items():
            apply.apply_limit(client, name, slots, on_change)
        if saved is not None:
            apply.apply_store(str(block), saved, on_change)
        if receiver is not None:
            apply_receiver(client, receiver, on_change)
        if no_notify is not None:
            remove_receiver(client, no_notify, on_change)
    if as_json:
        click.echo(json.dumps(changes))


def _require_server() -> str:
    """Return the address of the Prefect server.

    Raises:
        RequestError: None is set, or it does not answer.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    url: str | None = PREFECT_API_URL.value()
    advice = "Start one (`prefect server start`) and set PREFECT_API_URL, such as http://127.0.0.1:4200/api."
    if not url:
        raise RequestError("No Prefect server is set.", code="no_prefect_server", advice=advice)
    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        raise RequestError(
            f"The Prefect server at {url!r} does not answer: {error}.", code="no_prefect_server", advice=advice
        ) from error
    with get_client(sync_client=True) as client:
        require_access(client)
    return url


def _pairs(settings: Iterable[str], option: str) -> Iterable[tuple[str, Any]]:
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not (equals and name):
            raise RequestError(
                f"{option} {setting!r} is not NAME=VALUE.", code="bad_setting", advice="Write mem_limit=64g."
            )
        try:
            yield name, json.loads(text)
        except ValueError:
            yield name, text


def _block(store: str | None, name: str | None) -> JobStore | None:
    """Return the block for the store, with the credentials of this command's environment; None where none is saved."""
    from simyard.blocks.job_store import JobStore
    from simyard.blocks.reference import BLOCK_PREFIX, absolute, check_block_name

    if name is None and store is None:
        return None
    if name is None:
        raise RequestError(
            f"--store {store!r} needs --block.",
            code="bad_command",
            advice="A pool has no store: each job names its own. --block NAME saves this one as job-store/NAME.",
        )
    if store is None:
        raise RequestError("--block needs --store.", code="bad_command", advice="Name the jobs' store: s3://BUCKET.")
    check_block_name(name)
    if store.startswith(BLOCK_PREFIX):
        raise RequestError(
            f"--store {store!r} is a block already.",
            code="bad_command",
            advice="Leave --store and --block out, or give the address of a folder or a bucket.",
        )

    environment = {
        "endpoint_url": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
        "access_key_id": ("AWS_ACCESS_KEY_ID",), "secret_access_key": ("AWS_SECRET_ACCESS_KEY",),
    }  # fmt: skip
    is_bucket = store.startswith("s3://")
    if is_bucket and os.environ.get("AWS_SESSION_TOKEN"):
        raise RequestError(
            "AWS_SESSION_TOKEN is set: these credentials last for hours, and a block keeps no token.",
            code="bad_credentials",
            advice="Leave --block out where machines have roles of their own, or take the keys of a user.",
        )
    found = {
        option: next((os.environ[variable] for variable in variables if os.environ.get(variable)), None)
        for option, variables in environment.items()
    }
    return JobStore(url=absolute(store), **({k: v for k, v in found.items() if v} if is_bucket else {}))
