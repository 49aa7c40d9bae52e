"""Checkpoints named by a run in a tracker: `mlflow:RUN/PATH` and `wandb:ENTITY/PROJECT/ARTIFACT:VERSION/PATH`.

A file that simyard mirrored is there by reference; it comes from its store then, with its digest checked.
"""

from __future__ import annotations

import json
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError, SimyardError, StoreError
from simyard.store.store import Store

_MLFLOW = re.compile(r"mlflow:(?P<run>[0-9a-f]{32})/(?P<path>[^/].*)")
_WANDB = re.compile(r"wandb:(?P<artifact>[^/:]+/[^/:]+/[^/:]+:[^/:]+)/(?P<path>[^/].*)")


def fetch(reference: str, folder: Path, what: str) -> Path:
    """Fetch a file that a reference names, and return its path.

    Args:
        reference: As the user wrote it.
        folder: Where to.
        what: The field's name, for errors.

    Raises:
        RequestError: It is none, or names nothing.
        StoreError: The tracker cannot be reached.
    """
    name = reference.partition(":")[0]
    found = (_MLFLOW if name == "mlflow" else _WANDB).fullmatch(reference)
    if found is None or ".." in found["path"].split("/"):
        forms = {"mlflow": "mlflow:RUN_ID/checkpoints/model_9.pt", "wandb": "wandb:TEAM/PROJECT/ARTIFACT:v0/model.pt"}
        raise RequestError(
            f"{what}: {reference!r} names no file of {name}.", code="bad_reference", advice=f"Write {forms[name]}."
        )
    if find_spec(name) is None:
        raise RequestError(
            f"{what}: {name} is not installed, which {reference!r} needs.",
            code="not_installed",
            advice=f"Install it beside simyard: pip install 'simyard[{name}]'.",
        )
    target = folder / found["path"].rpartition("/")[2]
    try:
        fetched = (_from_mlflow if name == "mlflow" else _from_wandb)(found, target)
    except SimyardError:
        raise
    except Exception as error:  # the libraries raise what they like
        problem = str(error).partition("\n")[0][:300]
        raise StoreError(
            f"{what}: {name} does not give {reference!r}: {type(error).__name__}: {problem}",
            code="tracker_away",
            advice=f"Check the reference, and that this machine reaches {name} with its key.",
        ) from error
    if not fetched:
        raise RequestError(
            f"{what}: there is nothing at {reference!r}.", code="missing_file", advice="Check the run and the path."
        )
    return target


def _from_mlflow(found: re.Match[str], target: Path) -> bool:
    """Fetch a file of a run in MLflow; return whether it has it."""
    from mlflow import MlflowClient

    from simyard.tasks.trackers.mlflow_run import ARTIFACTS

    client, run = MlflowClient(), found["run"]
    with tempfile.TemporaryDirectory() as scratch:
        if "simyard.job_id" in client.get_run(run).data.tags:
            listed = json.loads(Path(client.download_artifacts(run, ARTIFACTS, scratch)).read_text(encoding="utf-8"))
            own = [entry for entry in listed["artifacts"] if entry["name"] == found["path"]]
            return bool(own) and _from_store(own[0]["uri"], target, own[0]["sha256"])
        names = [file.path for file in client.list_artifacts(run, found["path"].rpartition("/")[0] or None)]
        if found["path"] not in names:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        Path(client.download_artifacts(run, found["path"], scratch)).rename(target)
    return True


def _from_wandb(found: re.Match[str], target: Path) -> bool:
    """Fetch a file of an artifact in W&B; return whether it has it."""
    import wandb

    artifact: Any = wandb.Api().artifact(found["artifact"])
    entry = artifact.manifest.entries.get(found["path"])
    if entry is None:
        return False
    if entry.ref is not None:
        return _from_store(entry.ref, target, None)
    target.parent.mkdir(parents=True, exist_ok=True)
    Path(artifact.get_entry(found["path"]).download(root=str(target.parent))).rename(target)
    return True


def _from_store(uri: str, target: Path, sha256: str | None) -> bool:
    folder, _, name = uri.rpartition("/")
    Store.open(folder).get_file(name, target, sha256=sha256)
    return True
