"""Configs that lie in a store: read and checked, and their files found beside them, for a hook that starts the job."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from posixpath import normpath

from simyard.core.errors import RequestError
from simyard.requests.config import MAX_CONFIG_BYTES
from simyard.requests.jobs import EvaluateRequest, ExportRequest, JobRequest
from simyard.runner.rl import DEFAULT_LIBRARY
from simyard.runner.rl.checkpoints import newest_last, places
from simyard.service import bodies
from simyard.service.references import check_readable, with_files
from simyard.service.settings import Settings
from simyard.store.store import KeyNotFound
from simyard.tasks.shared.gate import Gate
from simyard.tasks.shared.inputs import CONFIG, asset_file, find_asset


def request_of(uri: str, project: str, settings: Settings) -> JobRequest:
    """Return the request that an uploaded config is, with every file that it names by a URI.

    A relative path starts from the config's folder or the one above it, as it does on a disk; an evaluation or an
    export that names no policy takes the newest checkpoint beside the config.

    Args:
        uri: A config in one of the stores that `SIMYARD_INPUT_STORES` lists, or the id of an asset of kind `config`.
        project: The project whose job it is to be.
        settings: Where files may come from.

    Raises:
        RequestError: There is none, it lies elsewhere, or a file that it names is not there.
        FieldErrors: Its fields are wrong.
    """
    config = _Config(uri, project, settings)
    request = bodies.check(config.body, bodies.job_model(config.body))
    request = with_files(request, config.find)
    if isinstance(request, EvaluateRequest | ExportRequest):
        section = request.section
        if all(getattr(section, name) is None for name in section.SOURCES):
            newest = config.newest_checkpoint(section.rl_library or DEFAULT_LIBRARY)
            changed = section.model_copy(update={"checkpoint_path": newest})
            request = request.model_copy(update={str(request.SECTION): changed})
    return request


class _Config:
    """A config and its place."""

    def __init__(self, uri: str, project: str, settings: Settings) -> None:
        self._uri, self._project, self._settings = uri, project, settings
        own = settings.open(project)
        self._gate = Gate(own, settings.input_stores)
        if uri.startswith("asset-"):
            record = find_asset(own, uri)
            if record.kind != CONFIG:
                raise RequestError(
                    f"config: {uri!r} is an asset of kind {record.kind!r}.",
                    code="wrong_asset_kind",
                    advice=f"Upload it again with the kind {CONFIG!r}.",
                )
            store, key = own, asset_file(record).key
        else:
            found = self._gate.find(uri, "config")
            if found is None or found[0] is own:  # a job leaves its config there, which must not start the next one
                raise RequestError(
                    f"config: {uri!r} is no config that a hook may start a job from.",
                    code="bad_reference",
                    advice="Give s3://BUCKET/KEY in a store that SIMYARD_INPUT_STORES lists, or the id of an asset of "
                    f"kind {CONFIG!r}.",
                )
            store, key = found
        try:
            if (size := store.stat(key).size_bytes) > MAX_CONFIG_BYTES:
                raise RequestError(
                    f"config: {uri!r} has {size:,} bytes.",
                    code="bad_config",
                    advice=f"Allowed: {MAX_CONFIG_BYTES:,} bytes.",
                )
            data = store.get_bytes(key)
        except KeyNotFound as error:
            raise RequestError(
                f"config: there is nothing at {uri!r}.", code="missing_file", advice="Upload it first."
            ) from error
        self.body = bodies.parse_json(data, f"The config {uri!r}")

    def find(self, reference: str, where: str) -> str:
        """Return the URI of a file that the config names.

        Raises:
            RequestError: It lies where no hook may take it from, or is not there.
        """
        if "://" in reference or not self._uri.startswith("s3://"):
            check_readable(reference, self._project, self._settings, where)
            return reference
        folder = PurePosixPath(self._uri.removeprefix("s3://")).parent
        above = [folder.parent] if len(folder.parts) > 1 else []
        paths = [normpath(place / reference.lstrip("/")) for place in (folder, *above)]
        tried = [f"s3://{path}" for path in paths if path.split("/")[0] == folder.parts[0]]
        for uri in tried:
            found = self._gate.find(uri, where)
            if found is not None and found[0].exists(found[1]):
                return uri
        raise RequestError(
            f"{where}: there is no file {reference!r} beside the config (looked at {', '.join(tried) or 'nothing'}).",
            code="missing_file",
            advice="Upload it first: a path starts from the config's folder or the one above it.",
        )

    def newest_checkpoint(self, library: str) -> str:
        """Return the URI of the newest checkpoint beside the config.

        Raises:
            RequestError: There is none.
        """
        folder = self._uri.rpartition("/")[0]
        found = self._gate.find(f"{folder}/x", "config") if folder else None
        names = [entry.key for entry in found[0].list()] if found is not None else []
        near = {*places()}
        beside = newest_last((Path(name) for name in names if name.rpartition("/")[0] in near), library)
        if not beside:
            raise RequestError(
                f"No checkpoint of {library!r} beside the config {self._uri!r}.",
                code="no_checkpoint",
                advice="Give checkpointPath, policyS3Uri, policyPath or fromJob.",
            )
        return f"{folder}/{beside[-1]}"
