"""A site that has outgrown the laptop: a Prefect server, a container engine, and a bucket that both reach."""

import contextlib
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import containers
import docker
from helpers import PREFECT, CommandLine, Server, end, free_port, serving_prefect

BUCKET = "s3://robots/fleet"
HOME = "/var/lib/simyard"


@dataclass
class Fleet:
    """The site, and what a test may do to it."""

    folder: Path
    podman: containers.Podman
    endpoint: str
    port: int = field(default_factory=free_port)
    server: Server | None = None
    _running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    worker: "subprocess.Popen[bytes] | None" = None

    def start_server(self) -> None:
        self.server = self._running.enter_context(serving_prefect(self.folder / "prefect", self.port))

    def stop_server(self) -> None:
        self._running.close()

    @property
    def bucket_env(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": "robot", "AWS_SECRET_ACCESS_KEY": "secret-key",
            "AWS_REGION": "us-east-1",
        }  # fmt: skip

    @property
    def env(self) -> dict[str, str]:
        assert self.server is not None
        return {**self.server.env, **self.bucket_env, "SIMYARD_HOME": str(self.folder / "home")}

    @property
    def command(self) -> CommandLine:
        return CommandLine({**os.environ, **self.env})

    def start_worker(self, pool: str, pool_type: str = "docker") -> None:
        env = {
            **os.environ, **self.env, "DOCKER_HOST": self.podman.address, "PREFECT_WORKER_QUERY_SECONDS": "1",
        }  # fmt: skip
        with (self.folder / "worker.log").open("ab") as log:
            self.worker = subprocess.Popen(
                [PREFECT, "worker", "start", "--pool", pool, "--type", pool_type],
                cwd=self.folder, env=env, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def stop_worker(self) -> None:
        if self.worker is not None:
            end(self.worker)

    def containers(self) -> "list[docker.models.containers.Container]":
        return self.podman.client.containers.list(ignore_removed=True)
