"""A whole site, as `simyard up` runs it."""

import json
import os
import pty
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from helpers import HANG_S, SIMYARD, free_port, wait_until

UP_S = 240
"""Everything comes up within this, also where other tests have the processors."""


def _copy(screen: int, log: Path) -> None:
    """Write to a log what is shown on a terminal, until nobody has it any more."""
    with suppress(OSError), log.open("ab", buffering=0) as copy:
        while shown := os.read(screen, 65536):
            copy.write(shown)
    os.close(screen)


class Site:
    """`simyard up` in a home of its own."""

    def __init__(self, home: Path, **env: str) -> None:
        self.home = home
        self.port = free_port()
        self.prefect_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        without = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.env = {**without, "SIMYARD_HOME": str(home), "SIMYARD_STORE": str(home / "store"), **env}
        self.process: subprocess.Popen[str] | None = None
        self.said = ""

    def up(self, *, on_terminal: bool = False) -> None:
        """Start, and wait until everything is ready."""
        command = [SIMYARD, "up", "--port", str(self.port), "--prefect-port", str(self.prefect_port), "--jobs", "2"]
        log = self.home.with_name(f"{self.home.name}.log")
        with log.open("wb") as output:
            screen, terminal = pty.openpty()
            to = terminal if on_terminal else output
            self.process = subprocess.Popen(
                command, env=self.env, stdout=to, stderr=to, text=True, start_new_session=True
            )
        os.close(terminal)
        threading.Thread(target=_copy, args=(screen, log), daemon=True).start()

        def is_ready() -> bool:
            self.said = log.read_text()
            assert self.process is not None
            assert self.process.poll() is None, self.said
            return "Ready." in self.said

        wait_until(is_ready, UP_S, f"the site: {log}")

    def down(self) -> str:
        """Stop as Ctrl-C does; return what was said."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.process.wait(HANG_S)
        self.said = self.home.with_name(f"{self.home.name}.log").read_text()
        return self.said

    def kill(self) -> None:
        """End `simyard up` itself with SIGKILL; what it started goes on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    @property
    def key(self) -> str:
        return (self.home / "api-key").read_text().strip()

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Call the API, which may be away for a moment."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return dict(json.load(answer))

    def job(self, job_id: str) -> dict[str, Any]:
        return self.call("GET", f"/v0/jobs/{job_id}")

    def wait_for(self, job_id: str, *statuses: str, timeout_s: float = HANG_S) -> dict[str, Any]:
        """Return the job once it has one of these statuses."""

        def found() -> dict[str, Any] | None:
            try:
                job = self.job(job_id)
            except (urllib.error.URLError, OSError):
                return None
            return job if job["status"] in statuses else None

        return dict(wait_until(found, timeout_s, f"{job_id} to be {statuses}"))

    def saved(self, job_id: str, attempt: int) -> list[int]:
        """Return the iterations of the checkpoints that an attempt has in the store."""
        index = self.home / "store" / "jobs" / job_id / "attempts" / f"{attempt:03d}" / "checkpoints.json"
        return [record["iteration"] for record in json.loads(index.read_text())] if index.exists() else []
