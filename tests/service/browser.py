"""A real browser, driven by its own protocol."""

import base64
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers import HANG_S, end, wait_until
from websockets.sync.client import ClientConnection, connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Tab:
    """One tab, and what it complained of."""

    def __init__(self, socket: ClientConnection) -> None:
        self.complaints: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)

    def __call__(self, method: str, **given: Any) -> dict[str, Any]:
        """Send a command; return its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": given}))
        while True:
            told = json.loads(self._socket.recv(timeout=30))
            if told.get("id") == number:
                assert "error" not in told, told
                return dict(told["result"])
            self._hear(told)

    def _hear(self, told: dict[str, Any]) -> None:
        if told.get("method") == "Log.entryAdded":
            self.complaints.append(told["params"]["entry"]["text"])
        elif told.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["params"]["exceptionDetails"]))

    def open(self, url: str, width: int, *, dark: bool = False) -> None:
        """Load one of our pages in a window of this width."""
        self.visit(url, width, "document.querySelector('main')", dark=dark)

    def visit(self, url: str, width: int, sign: str, *, dark: bool = False) -> None:
        """Load any page, until an expression says that it is there."""
        for domain in ("Page", "Log", "Runtime"):
            self(f"{domain}.enable")
        self("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Page.navigate", url=url)
        wait_until(lambda: self.js(f"document.readyState === 'complete' && !!({sign})"), HANG_S, url)

    def picture(self, **given: Any) -> bytes:
        """Return a picture of the page, as PNG."""
        return base64.b64decode(self("Page.captureScreenshot", format="png", **given)["data"])

    def js(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")


@contextmanager
def browsing(home: Path, *flags: str) -> Iterator[Tab]:
    """Yield a tab of a browser that has a profile of its own, and no window."""
    assert CHROMIUM is not None
    port = home / "DevToolsActivePort"
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--remote-debugging-port=0", f"--user-data-dir={home}", *flags, "about:blank",
    ]  # fmt: skip
    env = {**os.environ, "HOME": str(home)}
    with (home / "browser.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: port.exists() and len(port.read_text().split()) == 2, HANG_S, f"a browser: {home}")
        number, path = port.read_text().split()
        with connect(f"ws://127.0.0.1:{number}{path}", max_size=None) as browser:
            target = Tab(browser)("Target.createTarget", url="about:blank")["targetId"]
            with connect(f"ws://127.0.0.1:{number}/devtools/page/{target}", max_size=None) as page:
                yield Tab(page)
    finally:
        end(process)
