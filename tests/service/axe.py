"""Deque's axe-core, which finds what makes a page unusable with a screen reader, a keyboard or weak eyes."""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from browser import Tab

VERSION = "4.14.1"
_KEPT = Path(__file__).parents[2] / "build" / f"axe-core-{VERSION}.js"
"""Fetched once: it is no part of the repository."""
_RUN = """axe.run(document, {resultTypes: ["violations"]}).then((found) => JSON.stringify(found.violations
  .filter((one) => ["serious", "critical"].includes(one.impact))
  .map((one) => [one.id, one.help, one.nodes.slice(0, 5).map((node) => node.html.slice(0, 200))])))"""


def axe(folder: Path) -> str:
    """Return its source; skip the test where npm cannot bring it."""
    if not _KEPT.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("there is no npm, which brings axe-core")
        asked = [npm, "pack", f"axe-core@{VERSION}", "--silent", "--pack-destination", str(folder)]
        told = subprocess.run(asked, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        if told.returncode:
            pytest.skip(f"npm does not bring axe-core here: {told.stderr.strip()[-300:]}")
        with tarfile.open(folder / f"axe-core-{VERSION}.tgz") as archive:
            member = archive.extractfile("package/axe.min.js")
            assert member is not None
            _KEPT.parent.mkdir(exist_ok=True)
            beside = _KEPT.with_suffix(f".{folder.name}")
            beside.write_bytes(member.read())
            beside.replace(_KEPT)
    return _KEPT.read_text(encoding="utf-8")


def serious(tab: Tab, source: str) -> list[Any]:
    """Return what is serious or critical of the page in a tab: rule, advice, elements."""
    tab("Runtime.evaluate", expression=source)
    answer = tab("Runtime.evaluate", expression=_RUN, awaitPromise=True, returnByValue=True)
    assert "exceptionDetails" not in answer, answer
    return list(json.loads(answer["result"]["value"]))
