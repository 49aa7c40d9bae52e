"""How long the requests of others take while the service is attacked.

    python benchmarks/attacks.py [--attacks 1 4 …] [--alone] [--clients 200] [--jobs 25] [--rounds 2]

A real site on this machine: a Prefect server, one copy of the service, a store in a folder. Others are the clients of
tests/service/load.py, with a project of their own, and one that asks `/healthz` ten times a second. Each attack is a
process beside them; where it needs a key it has one of another project.

    1    JSON of 1 MB whose first key stands twice, with a key and without
    4    bodies of 60 MB to two endpoints, with a key and without
    5    105 registrations of a file whose server drips
    6    a robot archive of 9 kB with two million elements, submitted
    7    the last line of a log of 300 MB
    10   1,100 connections with half of their headers; those that are closed are opened again
    11   /readyz, of a store with 3,000 jobs

Every row is printed: without an attack, with each that is chosen (`--alone`), and with all of them; then one JSON line.
`--open-files 1024` starts the service with so many and no more.
"""

from __future__ import annotations

import argparse
import http.client
import io
import itertools
import json
import os
import resource
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "service")]  # the site and the load are those of the tests

HALF = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Half:"
MB = 1_000_000


class Attacker:
    """One attack, by its number, until standard input ends; the answers that it gets are counted."""

    def __init__(self, url: str, key: str, about: dict[str, str]) -> None:
        parts = urlsplit(url)
        self.address = (parts.hostname or "", parts.port or 80)
        self.key = {"Authorization": f"Bearer {key}"}
        self.about = about
        self.heard: Counter[str] = Counter()

    def run(self, number: str) -> None:
        for _ in range({"1": 4, "4": 4, "5": 105, "6": 2, "7": 4, "10": 1, "11": 20}[number]):
            threading.Thread(target=self._again, args=[getattr(self, f"attack_{number}")()], daemon=True).start()
        sys.stdin.read()
        print(json.dumps(self.heard), flush=True)
        os._exit(0)

    def _again(self, attack: Callable[[], object]) -> None:
        while True:
            try:
                attack()
            except OSError as error:
                self.heard[type(error).__name__] += 1
                time.sleep(0.05)

    def ask(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> bytes:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        try:
            try:
                connection.request(method, path, data, headers or {})  # type: ignore[arg-type]
            except (BrokenPipeError, ConnectionResetError):
                self.heard["cut off"] += 1
            with connection.getresponse() as answer:
                self.heard[str(answer.status)] += 1
                return answer.read()
        finally:
            connection.close()

    def attack_1(self) -> Callable[[], object]:
        pairs = [f'"k{number}":0' for number in range(70_000)]
        body = "{" + ",".join([*pairs, pairs[0]]) + "}"
        with_key = itertools.cycle([self.key, {}])
        return lambda: self.ask("POST", "/v0/jobs", body[:MB].encode(), next(with_key))

    def attack_4(self) -> Callable[[], object]:
        body = b'{"filename": "' + b"x" * 60 * MB + b'"}'
        cases = itertools.cycle(itertools.product(["inputs/presign-upload", "assets/register"], [self.key, {}]))

        def send() -> None:
            path, key = next(cases)
            self.ask("POST", f"/v0/{path}", body, {"Content-Type": "application/json", **key})

        return send

    def attack_5(self) -> Callable[[], object]:
        body = {"input_uri": f"http://{self.about['drip']}/robot.urdf", "kind": "robot"}
        return lambda: self.ask("POST", "/v0/assets/register", body, self.key)

    def attack_6(self) -> Callable[[], object]:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("robot.urdf", '<robot name="r"><link name="base"/>' + "<a/>" * 2 * MB + "</robot>")
        data = packed.getvalue()
        asked = {"filename": "robot.zip", "size_bytes": len(data)}
        link = json.loads(self.ask("POST", "/v0/inputs/presign-upload", asked, self.key))
        self.ask("PUT", urlsplit(link["upload_url"]).path, data)
        body = {"robot": {"urdf_uri": link["input_uri"]}, "scene": {"scene_id": "ground"}, "execution": {"steps": 1}}
        return lambda: self.ask("POST", "/v0/jobs", body, self.key)

    def attack_7(self) -> Callable[[], object]:
        return lambda: self.ask("GET", f"/v0/jobs/{self.about['logged']}/logs?tail=1", None, self.key)

    def attack_10(self) -> Callable[[], object]:
        held: list[socket.socket] = []

        def hold() -> None:
            for connection in [*held]:
                with suppress(BlockingIOError):
                    connection.setblocking(False)
                    try:
                        if connection.recv(4096) == b"":
                            self.heard["closed"] += 1
                            held.remove(connection)
                    except ConnectionError:
                        self.heard["closed"] += 1
                        held.remove(connection)
            while len(held) < 1100:
                held.append(socket.create_connection(self.address, 5))
                held[-1].sendall(HALF)
                self.heard["opened"] += 1

        return hold

    def attack_11(self) -> Callable[[], object]:
        return lambda: self.ask("GET", "/readyz")


class Site:
    """The service, what attacks need there, and its figures."""

    def __init__(self, folder: Path, options: argparse.Namespace, server: object) -> None:
        from serving import site

        self.options = options
        self.drip = _drip()
        self.service = site(folder, server, SIMYARD_PRIVATE_HOSTS=self.drip)  # type: ignore[arg-type]
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        if options.open_files:
            code = f"import resource as r; r.setrlimit(r.RLIMIT_NOFILE, ({options.open_files},) * 2)"
            (folder / "sitecustomize.py").write_text(code)  # the service's own interpreter limits itself
            self.service.env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        self.service.start()
        assert limits == resource.getrlimit(resource.RLIMIT_NOFILE)
        self.own, self.others = self.service.key("attacker"), self.service.key("others")
        for _ in range(3000 if "11" in options.attacks else 0):
            (folder / "store" / "jobs" / _job_id()).mkdir(parents=True)
        for job in (folder / "store" / "jobs").glob("*"):
            (job / "job.json").write_text("{}")
        self.logged = _job_id()
        if "7" in options.attacks:
            self._log(folder / "store" / "projects" / "attacker" / "jobs" / self.logged)

    def _log(self, job: Path) -> None:
        import records

        from simyard.core.specs import JobSpec

        spec = JobSpec(
            job_id=self.logged, kind="train", name="n", simulator="isaaclab", task="T", library="rsl_rl", num_envs=1,
            max_iterations=1, seed=1,
        )  # fmt: skip
        attempt = job / "attempts" / "001"
        (attempt / "files").mkdir(parents=True)
        (job / "job.json").write_text(json.dumps(spec.to_json()))
        (attempt / "status.json").write_text(json.dumps(records.status()))
        with (attempt / "files" / "command.stdout.log").open("wb") as log:
            for _ in range(300):
                log.write(b"a line of a log that a workload writes as fast as it can, again and\n" * (MB // 68))

    @contextmanager
    def attacked(self, numbers: list[str]) -> Iterator[dict[str, dict[str, int]]]:
        """Attack while the body runs; what each attack heard is known afterwards."""
        about = json.dumps({"drip": self.drip, "logged": self.logged})
        heard: dict[str, dict[str, int]] = {}
        processes = {
            number: subprocess.Popen(
                [sys.executable, __file__, "--child", number, self.service.url, self.own, about],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for number in numbers
        }  # fmt: skip
        try:
            time.sleep(2.0 if numbers else 0.0)  # they are under way
            yield heard
        finally:
            for number, process in processes.items():
                said, _ = process.communicate("", timeout=60)
                heard[number] = json.loads(said or "{}")

    def row(self, numbers: list[str]) -> dict[str, object]:
        """Run the load while these attacks run."""
        from load import Load

        pid = self.service.pids[0]
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak of its memory begins anew
        load = Load(self.service.url, self.others, self.options.clients, self.options.jobs)
        health: list[float] = []
        stop = threading.Event()
        with self.attacked(numbers) as heard:
            asker = threading.Thread(target=self._ask_health, args=[health, stop])
            asker.start()
            try:
                for _ in range(self.options.rounds):
                    load.run(secrets.token_hex(4))
            finally:
                stop.set()
                asker.join()
        figures = {kind: [round(value * 1000) for value in pair] for kind, pair in load.figures().items()}
        figures["healthz"] = [round(statistics.median(health) * 1000), round(max(health) * 1000)]
        status = Path(f"/proc/{pid}/status").read_text()
        peak_mb = int(status.partition("VmHWM:")[2].split()[0]) // 1024
        print(
            f"{'+'.join(numbers) or 'none':22}"
            + "".join(f"  {kind} {low:6,} {high:7,} ms" for kind, (low, high) in figures.items())
            + f"  {peak_mb:,} MB  {json.dumps(heard)}",
            flush=True,
        )
        return {"attacks": numbers, "ms": figures, "peak_mb": peak_mb, "heard": heard}

    def _ask_health(self, times: list[float], stop: threading.Event) -> None:
        while not stop.wait(0.1):
            began = time.monotonic()
            with suppress(OSError):
                self.service.call("GET", "/healthz")
            times.append(time.monotonic() - began)


def _drip() -> str:
    """Serve a file that never ends, a byte a second; return the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(b"x")
                    time.sleep(1.0)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"127.0.0.1:{server.server_address[1]}"


def _job_id() -> str:
    from simyard.store.keys import new_job_id

    return new_job_id()


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        number, url, key, about = sys.argv[2:]
        Attacker(url, key, json.loads(about)).run(number)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = ["1", "4", "5", "6", "7", "10", "11"]
    parser.add_argument("--attacks", nargs="*", default=every, choices=every, metavar="NUMBER")
    parser.add_argument("--alone", action="store_true", help="each attack by itself too")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--open-files", type=int, help="of the service, at most")
    options = parser.parse_args()
    from helpers import send_deployments, serving_prefect

    with tempfile.TemporaryDirectory(prefix="simyard-attacks-") as folder:
        (Path(folder) / "prefect").mkdir()
        with serving_prefect(Path(folder) / "prefect") as server:
            send_deployments(server)
            site = Site(Path(folder), options, server)
            try:
                cases = [[], *([[number] for number in options.attacks] if options.alone else []), options.attacks]
                print(f"{'attack':22}  p50, p99 of submissions and polls; median and most of /healthz; peak; heard")
                rows = [site.row(case) for case in cases]
            finally:
                site.service.stop()
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
