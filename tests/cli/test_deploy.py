"""`simyard deploy`: what a Prefect server knows afterwards, that a second time changes nothing, and what is refused."""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from helpers import CommandLine, FlowHost, Server, last_json, serving
from prefect.settings import PREFECT_API_URL, temporary_settings

from simyard.cli.main import main
from simyard.deployments import GPU_SIDE

EXAMPLE = Path(__file__).parents[2] / "examples" / "cartpole-training-config.json"
IMAGE = "registry.example.com/simyard-isaaclab:3.0"
SECRET = "the-secret-key"
KEYS = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9000", "AWS_ACCESS_KEY_ID": "robot", "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_REGION": "eu-central-1",
}  # fmt: skip


class Seen:
    """What a Prefect server says of a pool and of what belongs to it."""

    def __init__(self, server: Server) -> None:
        self.ask = server.ask

    def pool(self, name: str) -> Any:
        return self.ask(f"/work_pools/{name}")

    def queues(self, pool: str) -> dict[str, int]:
        return {queue["name"]: queue["priority"] for queue in self.ask(f"/work_pools/{pool}/queues/filter", {})}

    def limit(self, name: str) -> Any:
        return self.ask(f"/v2/concurrency_limits/{name}")

    def block(self, name: str) -> Any:
        return self.ask(f"/block_types/slug/job-store/block_documents/name/{name}?include_secrets=true")

    def whole(self, pool: str, limits: tuple[str, ...], block: str) -> dict[str, Any]:
        """Return every object as the server has it, the times at which it was changed included."""
        queues = sorted(self.ask(f"/work_pools/{pool}/queues/filter", {}), key=lambda queue: queue["name"])
        changing = ("last_polled", "status", "slot_decay_per_second")
        return {
            "pool": self.pool(pool),
            "queues": [{key: value for key, value in queue.items() if key not in changing} for queue in queues],
            "deployments": {flow: self.ask(f"/deployments/name/{flow}/{pool}") for flow in GPU_SIDE},
            "limits": {name: self.limit(name) for name in limits},
            "block": self.block(block),
        }

    def names(self) -> set[str]:
        """Return everything that there is, by its name."""
        pools = {f"pool {found['name']}" for found in self.ask("/work_pools/filter", {})}
        deployments = {f"deployment {found['id']}" for found in self.ask("/deployments/filter", {})}
        limits = {f"limit {found['name']}" for found in self.ask("/v2/concurrency_limits/filter", {})}
        blocks = {f"block {found['id']}" for found in self.ask("/block_documents/filter", {})}
        return pools | deployments | limits | blocks


@pytest.fixture(scope="module")
def seen(prefect_server: Server) -> Seen:
    return Seen(prefect_server)


@pytest.fixture
def pool() -> str:
    """A name that no other test has."""
    return f"gpu-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def command(prefect_server: Server, flow_host: FlowHost, tmp_path: Path) -> CommandLine:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    return CommandLine({**clean, **prefect_server.env, "SIMYARD_HOME": str(tmp_path / "home")}, flow_host)


@pytest.fixture
def guarded() -> Iterator[str]:
    """The API of a server that says to everybody that it is well, and nothing else to those without its auth string."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_health = self.path == "/api/health"
            self.send_response(200 if is_health else 401)
            self.end_headers()
            self.wfile.write(b"true" if is_health else b'{"exception_message": "Unauthorized"}')

        do_POST = do_GET  # noqa: N815

        def log_message(self, *arguments: Any) -> None:
            pass

    with serving(Handler) as url:
        yield f"{url}/api"


@pytest.fixture
def deploy(prefect_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command in this process, whose Prefect is imported already: a process of its own takes seconds for that."""
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)

    def run(*arguments: object, **env: str) -> Result:
        with temporary_settings({PREFECT_API_URL: prefect_server.url}):
            return CliRunner().invoke(main, ["deploy", *map(str, arguments)], env=env)

    return run


def test_a_pool_is_made_whole_and_a_second_time_nothing_changes(command: CommandLine, seen: Seen, pool: str) -> None:
    limits = (f"gpus-pool-{pool}", f"gpus-project-{pool}")
    arguments = (
        "deploy", "--pool", pool, "--type", "docker", "--image", IMAGE, "--gpus", "8", "--project-gpus", f"{pool}=2",
        "--set", "mem_limit=64g", "--set", 'env={"NCCL_SOCKET_IFNAME": "eth0"}', "--accept-nvidia-eula",
        "--store", "s3://robots/simyard", "--block", pool,
    )  # fmt: skip
    first = command(*arguments, **KEYS)
    assert first.returncode == 0, first.stderr
    assert first.stderr.startswith("warning: "), "the tests' server serves everybody"
    assert "asks for no auth string" in first.stderr
    parts = [
        f"work pool {pool}", *(f"work queue {pool}/{queue}" for queue in ("high", "default", "low")),
        *(f"deployment {flow}/{pool}" for flow in GPU_SIDE), *(f"limit {name}" for name in limits),
        f"block job-store/{pool}",
    ]  # fmt: skip
    said = dict(reversed(line.split(maxsplit=1)) for line in first.stdout.splitlines())
    assert list(said) == parts
    # A pool comes with Prefect's own queue.
    assert {change for part, change in said.items() if part != f"work queue {pool}/default"} == {"created"}

    made = seen.pool(pool)
    properties = made["base_job_template"]["variables"]["properties"]
    assert (made["type"], properties["image"]["default"], properties["mem_limit"]["default"]) == (
        "docker",
        IMAGE,
        "64g",
    )
    assert properties["env"]["default"] == {"NCCL_SOCKET_IFNAME": "eth0", "SIMYARD_ACCEPT_NVIDIA_EULA": "on"}
    queues = seen.queues(pool)
    assert sorted(queues, key=queues.__getitem__) == ["high", "default", "low"]
    assert [seen.limit(name)["limit"] for name in limits] == [8, 2]
    block = seen.block(pool)["data"]
    assert (block["url"], block["access_key_id"], block["secret_access_key"]) == (
        "s3://robots/simyard",
        "robot",
        SECRET,
    )
    assert (block["endpoint_url"], block["region"]) == ("http://127.0.0.1:9000", "eu-central-1")

    before = seen.whole(pool, limits, pool)
    again = command(*arguments, "--json", **KEYS)
    assert again.returncode == 0, again.stderr
    assert last_json(again) == dict.fromkeys(parts, "unchanged")
    assert len(again.stdout.splitlines()) == 1
    assert seen.whole(pool, limits, pool) == before
    assert SECRET not in first.stdout + first.stderr + again.stdout + again.stderr


def changes_of(done: Result) -> dict[str, str]:
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def test_a_changed_variable_changes_the_pool_alone(deploy: Callable[..., Result], seen: Seen, pool: str) -> None:
    arguments = ("--pool", pool, "--type", "kubernetes", "--image", IMAGE, "--gpus", "4", "--json")
    assert deploy(*arguments).exit_code == 0
    # Numbers, where Kubernetes wants text; and one where it wants a number.
    changed = deploy(*arguments, "--set", "cpu_request=8", "--set", "cpu_limit=12.5", "--set", "grace_seconds=90")
    assert changed.exit_code == 0, changed.stderr
    changes = changes_of(changed)
    assert changes.pop(f"work pool {pool}") == "updated"
    assert set(changes.values()) == {"unchanged"}
    properties = seen.pool(pool)["base_job_template"]["variables"]["properties"]
    shown = {name: properties[name]["default"] for name in ("cpu_request", "cpu_limit", "grace_seconds")}
    assert shown == {"cpu_request": "8", "cpu_limit": "12.5", "grace_seconds": 90}

    limited = changes_of(deploy(*arguments[:-2], "2", "--json"))
    # What was set the last time and is not set now, is as the template has it.
    assert [part for part, change in limited.items() if change == "updated"] == [
        f"work pool {pool}", f"limit gpus-pool-{pool}",
    ]  # fmt: skip
    assert seen.limit(f"gpus-pool-{pool}")["limit"] == 2


def test_a_pool_keeps_its_type(deploy: Callable[..., Result], seen: Seen, pool: str) -> None:
    assert deploy("--pool", pool).exit_code == 0
    before = seen.names()
    refused = deploy("--pool", pool, "--type", "docker", "--image", IMAGE, "--gpus", "2")
    assert refused.exit_code == 2
    assert f"The pool {pool!r} is of type 'process', and 'docker' was asked for." in refused.stderr
    assert f"prefect work-pool delete {pool}" in refused.stderr
    assert seen.names() == before


def test_a_limit_or_a_block_alone_touches_no_pool(
    deploy: Callable[..., Result], pool: str, tmp_path: Path, seen: Seen
) -> None:
    limited = deploy("--project-gpus", f"{pool}=3", "--json")
    assert changes_of(limited) == {f"limit gpus-project-{pool}": "created"}
    folder = tmp_path / "jobs"
    saved = deploy("--store", folder, "--block", pool, "--json", **KEYS)
    assert changes_of(saved) == {f"block job-store/{pool}": "created"}
    data = seen.block(pool)["data"]
    assert (data["url"], data["access_key_id"], data["secret_access_key"]) == (folder.as_uri(), None, None)


def bad(name: str, arguments: list[str], *said: str) -> Any:
    return pytest.param(arguments, said, id=name)


DOCKER = ["--type", "docker", "--image", IMAGE]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        bad("name", ["--pool", "GPU pool"], "'GPU pool' is not the name of a pool", "a-z, 0-9"),
        bad("path", ["--pool", "../gpu"], "'../gpu' is not the name of a pool"),
        bad("type", ["--pool", "{pool}", "--type", "dokcer"], "'dokcer'", "Did you mean 'docker'?", "'kubernetes'"),
        bad("no image", ["--pool", "{pool}", "--type", "ecs"], "The image of a ecs pool is None", "--image"),
        bad("image", ["--pool", "{pool}", "--type", "docker", "--image", "a b"], "'a b'", "docs/images.md"),
        bad("image of a process", ["--pool", "{pool}", "--image", IMAGE], "A process pool has no image", repr(IMAGE)),
        bad("variable", ["--pool", "{pool}", *DOCKER, "--set", "mem_limt=64g"], "'mem_limt'", "'mem_limit'?"),
        bad("value", ["--pool", "{pool}", *DOCKER, "--set", "ulimits=no"], "ulimits is 'no'", "not of type 'array'"),
        bad(
            "value of a number",
            ["--pool", "{pool}", "--type", "kubernetes", "--image", IMAGE, "--set", "grace_seconds=soon"],
            "grace_seconds is 'soon'",
        ),
        bad("no text", ["--pool", "{pool}", *DOCKER, "--set", "shm_size=true"], "shm_size is True", "'string'"),
        bad("environment", ["--pool", "{pool}", *DOCKER, "--set", 'env={"A": 1}'], "env is {'A': 1}"),
        bad("no pair", ["--pool", "{pool}", *DOCKER, "--set", "mem_limit"], "'mem_limit' is not NAME=VALUE"),
        bad("projects GPUs", ["--pool", "{pool}", "--project-gpus", "lab=many"], "lab='many' is no number of GPUs"),
        bad("GPUs below none", ["--project-gpus", "lab=-1"], "lab=-1 is no number of GPUs"),
        bad("project", ["--pool", "{pool}", "--project-gpus", "../lab=1"], "'../lab'"),
        bad("block without store", ["--pool", "{pool}", "--block", "lab"], "--block needs --store"),
        bad("store without block", ["--pool", "{pool}", "--store", "s3://robots"], "'s3://robots' needs --block"),
        bad("block", ["--pool", "{pool}", "--store", "s3://robots", "--block", "My Lab"], "'My Lab' is not the name"),
        bad("a block's block", ["--store", "job-store/lab", "--block", "other"], "'job-store/lab' is a block already"),
        bad("store", ["--pool", "{pool}", "--store", "ftp://robots", "--block", "lab"], "ftp"),
        bad("type without pool", ["--type", "docker"], "--type needs --pool"),
        bad("image without pool", ["--image", IMAGE], "--image needs --pool"),
        bad("variable without pool", ["--set", "a=1"], "--set needs --pool"),
        bad("GPUs without pool", ["--gpus", "1"], "--gpus needs --pool"),
        bad("licence without pool", ["--accept-nvidia-eula"], "--accept-nvidia-eula needs --pool"),
    ],
)  # fmt: skip
def test_what_is_bad_is_refused_before_anything_is_sent(
    deploy: Callable[..., Result], seen: Seen, pool: str, tmp_path: Path, arguments: list[str], said: tuple[str, ...]
) -> None:
    before = seen.names()
    words = [word.format(pool=pool) if word == "{pool}" else word for word in arguments]
    refused = deploy(*words)
    assert isinstance(refused.exception, SystemExit), refused.exception
    assert refused.exit_code == 2, refused.output
    assert refused.stdout == ""
    assert refused.stderr.startswith("Bad request: ")
    for text in said:
        assert text in refused.stderr
    assert "Traceback" not in refused.stderr
    assert seen.names() == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "No Prefect server is set."),
        ("http://127.0.0.1:9/api", "'http://127.0.0.1:9/api' does not answer"),
        ("nowhere", "'nowhere' does not answer"),
    ],
    ids=["none is set", "none answers", "no address"],
)
def test_without_a_server_it_says_so(command: CommandLine, url: str, said: str) -> None:
    refused = command("deploy", "--pool", "gpu", "--json", PREFECT_API_URL=url)
    assert refused.returncode == 2, refused.stderr
    assert said in refused.stderr
    assert "prefect server start" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert json.loads(refused.stdout)["error"]["code"] == "no_prefect_server"


@pytest.mark.parametrize(
    ("words", "given"),
    [(("deploy", "--pool", "gpu"), None), (("train", str(EXAMPLE), "--pool", "gpu"), "a:wrong")],
    ids=["deploy, none is given", "train, another is given"],
)
def test_a_server_with_an_auth_string_is_told_of_in_a_sentence(
    command: CommandLine, guarded: str, tmp_path: Path, words: tuple[str, ...], given: str | None
) -> None:
    env = {"PREFECT_API_URL": guarded, "SIMYARD_STORE": str(tmp_path / "store")}
    refused = command(*words, "--json", **env, **({"PREFECT_API_AUTH_STRING": given} if given else {}))
    assert refused.returncode == 2, refused.stderr
    assert "answers 401: it asks for an" in refused.stderr
    assert ("another auth string" in refused.stderr) == bool(given)
    assert "Set PREFECT_API_AUTH_STRING" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert json.loads(refused.stdout)["error"]["code"] == "no_access"
    assert not (tmp_path / "store" / "jobs").exists(), "nothing is half created"


def test_keys_that_expire_go_into_no_block(deploy: Callable[..., Result], seen: Seen, pool: str) -> None:
    arguments = ("--pool", pool, "--store", "s3://robots", "--block", pool)
    refused = deploy(*arguments, **KEYS, AWS_SESSION_TOKEN="a-token")
    assert refused.exit_code == 2
    assert "AWS_SESSION_TOKEN is set" in refused.stderr
    assert "a-token" not in refused.stderr
    assert (seen.pool(pool), seen.block(pool)) == (None, None)
