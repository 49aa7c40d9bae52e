"""Copy assets from a store on the network, or a bucket, into a folder or a bucket, in the Python that has Isaac Lab."""

from __future__ import annotations

import functools
import http.server
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from simyard.blocks.reference import BLOCK_PREFIX, open_store
from simyard.core.errors import Category, Failure, RequestError, SimyardError
from simyard.core.files import read_json, scratch
from simyard.requests.settings import MachineSettings
from simyard.runner.assets.mirror import Answer, Mirrored
from simyard.store.store import Store

_LAST_LINES = 8


def mirror(machine: MachineSettings, out: str, tasks: tuple[str, ...], source: str | None) -> Mirrored:
    """Copy what tasks need into an asset root.

    Args:
        machine: Whose Python has Isaac Lab.
        out: The asset root: a folder, made if need be, or a store such as `s3://bucket/assets`.
        tasks: Ids of registered tasks.
        source: Where it is copied from, as far as the `Isaac` folder: an address, or a store; None for the address that
            Isaac Lab has: NVIDIA's.

    Raises:
        RequestError: A task is unknown, or the source is not reached.
        SimyardError: The child ended without an answer.
    """
    target = open_store(out) if _is_store(out) else None
    with ExitStack() as stack:
        # Isaac Lab's downloader, which finds what files refer to, knows addresses alone.
        address = source
        if source is not None and _is_store(source):
            address = stack.enter_context(_served(open_store(source)))
        folder = stack.enter_context(scratch("mirrored")) if target else Path(out)
        said = _in_child(machine, folder, tasks, address)
        if said.failure is not None:
            message = said.failure.message.replace(address or "", source or "") if address != source else None
            failure = replace(said.failure, message=message or said.failure.message)
            if failure.category is Category.USER:
                raise RequestError(failure.message, code=failure.code, advice=failure.advice)
            raise SimyardError(failure)
        assert said.mirrored is not None
        for name in said.mirrored.copied if target else ():
            assert target is not None
            target.put_file(name, folder / name)
    return said.mirrored if source is None or address == source else replace(said.mirrored, root=source)


def _is_store(reference: str) -> bool:
    """Return whether a reference names a store, rather than a folder or an address of the web."""
    scheme, separator, _ = reference.partition("://")
    return bool(separator and scheme not in ("http", "https")) or reference.startswith(BLOCK_PREFIX)


@contextmanager
def _served(store: Store) -> Iterator[str]:
    """Serve a store to this machine alone, while the body runs; yield the address."""
    with scratch("served") as folder:
        handler: Any = functools.partial(_StoreHandler, store, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, name="assets", daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()


class _StoreHandler(http.server.SimpleHTTPRequestHandler):
    """Answers with objects of a store, each fetched into the folder when it is first asked for."""

    def __init__(self, store: Store, *given: Any, **more: Any) -> None:
        self._store = store
        super().__init__(*given, **more)

    def send_head(self) -> Any:
        """Fetch the object that is asked for, and answer as a server of files does."""
        path = Path(self.translate_path(self.path))
        key = path.relative_to(self.directory).as_posix()
        try:
            if not path.exists() and self._store.exists(key):
                self._store.get_file(key, path)
        except SimyardError as error:  # no key at all, or a store that does not answer
            self.send_error(404 if isinstance(error, RequestError) else 502)
            return None
        return super().send_head()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the answer has what was copied."""


def _in_child(machine: MachineSettings, folder: Path, tasks: tuple[str, ...], source: str | None) -> Answer:
    """Copy from an address into a folder, in a child; return its answer."""
    env = machine.workload_env(embedded_assets=False)
    env.pop("ISAACSIM_ASSET_ROOT", None)
    if source is not None:
        env["ISAACSIM_ASSET_ROOT"] = source
    with scratch("mirror") as temporary:
        answer = temporary / "answer.json"
        command = [machine.python, "-P", "-m", "simyard.runner.assets.mirror", str(folder.resolve()), str(answer)]
        done = subprocess.run(
            [*command, *tasks], env=env, cwd=temporary, capture_output=True, text=True, errors="replace", check=False
        )
        if not answer.is_file():
            lines = "".join(f"\n    {line[:300]}" for line in done.stderr.splitlines()[-_LAST_LINES:])
            raise SimyardError(
                Failure(
                    code="mirror_failed",
                    category=Category.INFRA,
                    message=f"The process that copies ended with exit code {done.returncode}:{lines}\n",
                    advice=f"It ran {machine.python!r}, which must have Isaac Lab 3.0 and simyard: SIMYARD_PYTHON.",
                )
            )
        return Answer.from_json(read_json(answer))
