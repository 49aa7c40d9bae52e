"""Files that a request names: fetched and put beside it, from nowhere but where its sender may take them from."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from simyard.core.errors import RequestError
from simyard.requests.base import FILE, parts_of
from simyard.service import outbound
from simyard.service.auth import Caller
from simyard.service.downloads import download
from simyard.service.settings import Settings
from simyard.store import keys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.shared.gate import Gate
from simyard.tasks.shared.inputs import check_name

Named = TypeVar("Named", bound=BaseModel)

_INPUT = re.compile(r"/v0/inputs/([0-9a-f]{32})/([^/?#]+)(?:[?#].*)?\Z", re.DOTALL)


def input_path(upload_id: str, name: str) -> str:
    """Return the path of the URI that an uploaded file is named by."""
    return f"/v0/inputs/{upload_id}/{name}"


def with_files(model: Named, find: Callable[[str, str], str], where: str = "") -> Named:
    """Return a request in which every file has another name.

    Args:
        model: The request.
        find: Takes what it says and the field, and returns the other name.
        where: The field that the model is in, for errors.
    """
    changes: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value, at = getattr(model, name), f"{where}.{name}".lstrip(".")
        if isinstance(value, BaseModel):
            inner = with_files(value, find, at)
            changes |= {name: inner} if inner is not value else {}
        elif isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
            items = tuple(
                with_files(item, find, f"{at}[{index}]") if isinstance(item, BaseModel) else item
                for index, item in enumerate(value)
            )
            changes |= {name: items} if any(map(operator.is_not, items, value)) else {}
        elif isinstance(value, str) and _names_a_file(field):
            changes[name] = find(value, at)
    return model.model_copy(update=changes) if changes else model


def _names_a_file(field: FieldInfo) -> bool:
    arms = get_args(field.annotation)
    return FILE in field.metadata or any(FILE in getattr(arm, "__metadata__", ()) for arm in arms)


class Source:
    """Files that one caller may take."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def fetch(self, uri: str, folder: Path, what: str) -> Path:
        """Fetch a file, and return its path.

        Args:
            uri: What the user gave.
            folder: Where it may be put; made if need be.
            what: The field's name, for errors.

        Raises:
            RequestError: It is not there, too large, or not theirs to take.
        """
        folder.mkdir(parents=True)
        try:
            base = self._caller.base_url  # uploaded files are named by it
            if uri.startswith(f"{base}/") and (uploaded := _INPUT.match(uri.removeprefix(base))):
                name = unquote(uploaded[2])
                check_name(name, "The URI")
                return self._take(self._caller.store, keys.upload(uploaded[1], name), folder)
            if found := Gate(self._caller.store, self._caller.settings.input_stores).find(uri, what):
                return self._take(*found, folder)
        except KeyNotFound as error:
            raise RequestError(
                f"{what}: there is nothing at {uri!r}.", code="missing_file", advice="Upload it first."
            ) from error
        if uri.startswith(("http://", "https://")):
            return self._download(uri, folder, what)
        raise RequestError(
            f"{what}: {uri!r} is no URI that the service can read.",
            code="bad_reference",
            advice="Upload the file and name its input_uri or asset id; or give an s3:// or https:// URI.",
        )

    def _download(self, uri: str, folder: Path, what: str) -> Path:
        outbound.host_and_port(uri, what)  # nothing else takes it apart before it is known to be a URL
        name = urlsplit(uri).path.rpartition("/")[2]
        check_name(name, what)
        settings, caller = self._caller.settings, self._caller
        with caller.downloads.share(caller.key.key_id):
            most_bytes = settings.max_upload_bytes
            download(uri, folder / name, settings.private_hosts, most_bytes, caller.is_gone, what)
        return folder / name

    def _take(self, store: Store, key: str, folder: Path) -> Path:
        target = folder / key.rpartition("/")[2]
        local = store.path(key)
        if local is not None:
            target.symlink_to(local)  # it may be large, and is only read
            return target
        with self._caller.downloads.share(self._caller.key.key_id):
            store.get_file(key, target, on_bytes=lambda _: self._go_on())
        return target

    def _go_on(self) -> None:
        """Raise `RequestError` where nobody waits for the file any more."""
        if self._caller.is_gone():
            raise RequestError("The request was given up.", code="given_up", advice="Send it again.")


def check_readable(uri: str, project: str, settings: Settings, what: str) -> None:
    """Refuse a file that lies neither in the project's own store nor in one that all jobs may read.

    Args:
        uri: What somebody gave who has no key.
        project: The project's name.
        settings: Where files may come from.
        what: The field's name, for errors.

    Raises:
        RequestError: It is refused.
    """
    if Gate(settings.open(project), settings.input_stores).find(uri, what) is None:
        raise RequestError(
            f"{what}: {uri!r} is no URI that a webhook may give.",
            code="bad_reference",
            advice="Give s3://BUCKET/KEY in a store that SIMYARD_INPUT_STORES lists, an asset id, or a job id.",
        )


def named_files(model: BaseModel) -> Iterator[tuple[str, str]]:
    """Yield every file that a request names: the field, and what it says."""
    for at, field, value in parts_of(model):
        if isinstance(value, str) and _names_a_file(field):
            yield at, value
