"""The gate for files that are named by strangers: by requests of the API, and by workloads in what they leave.

Such a name may stand for an object of the project's own store, or of one that the site lists; a workload may name files
of its output folder too. Nothing else is opened for it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

from simyard.core.errors import RequestError
from simyard.core.files import OutsideError, open_inside
from simyard.store.backend import Location, on_disk, parse_url
from simyard.store.keys import PROJECTS, SERVICE, check_key
from simyard.store.store import READ_BYTES, KeyNotFound, Store
from simyard.tasks.shared.inputs import check_name

_OF_OTHERS = (f"{PROJECTS}/", f"{SERVICE}/")
"""Prefixes below the default project's store that are not the project's; no other project has such keys."""
_PROJECT = re.compile(rf"(^|/){PROJECTS}/[^/]+$")
"""End of the prefix of a project's store, below the site's own."""


def listed_stores() -> tuple[Location, ...]:
    """Return the stores of `SIMYARD_INPUT_STORES`, from which the jobs of every project may take files.

    Raises:
        RequestError: One is no bucket.
    """
    texts = [text.strip() for text in os.environ.get("SIMYARD_INPUT_STORES", "").split(",")]
    locations = {text: parse_url(text) for text in texts if text}
    for text, location in locations.items():
        if location.folder is not None:
            raise RequestError(
                f"SIMYARD_INPUT_STORES has {text!r}.",
                code="bad_setting",
                advice="Give s3://BUCKET or s3://BUCKET/PREFIX.",
            )
    return tuple(locations.values())


@dataclass(frozen=True)
class Gate:
    """The stores of which a project's requests and workloads may name objects."""

    own: Store
    """The project's."""
    listed: tuple[Location, ...] = field(default_factory=listed_stores)
    """Stores that the site lists."""

    def find(self, uri: str, what: str) -> tuple[Store, str] | None:
        """Return the store and the key of the object that a URI names; None for a URI that is none of a store.

        Args:
            uri: As it was given.
            what: The field's or file's name, for errors.

        Raises:
            RequestError: It lies in another store, or is no key.
        """
        root = self.own.url()
        if uri.startswith(f"{root}/"):
            rest = uri.removeprefix(f"{root}/")
            key = unquote(rest) if root.startswith("file:") else rest
            if not key.startswith(_OF_OTHERS):
                return self.own, check_key(key)
        if not uri.startswith("s3://"):
            return None

        # A bucket that is listed as a whole does not mean what simyard keeps in it.
        folder, _, name = uri.rpartition("/")
        location, own = parse_url(folder), parse_url(root)
        site = replace(own, prefix=_PROJECT.sub("", own.prefix))
        allowed = [listed for listed in self.listed if _is_below(location, listed)]
        if _is_below(location, site):
            allowed = [listed for listed in allowed if _is_below(listed, site) and not _is_below(site, listed)]
        if not allowed:
            raise RequestError(
                f"{what}: {uri!r} is in no store that jobs of this service may read.",
                code="store_not_allowed",
                advice="Upload the file; or have the owner list the store in SIMYARD_INPUT_STORES.",
            )
        check_name(name, what)
        return Store.open(location.url), name

    def copy(self, named: str, folder: Path, seen: str, target: Path, what: str) -> None:
        """Copy a file that a workload names.

        Args:
            named: What it wrote: a path in its output folder, or the URI of an object.
            folder: Its output folder.
            seen: The path of this folder as the workload sees it.
            target: Where to.
            what: The file in which it says so, for errors.

        Raises:
            RequestError: There is no such file, or it lies elsewhere.
            StoreError: It cannot be copied.
        """
        inside = f"{Path(seen).as_uri()}/"
        path = unquote(named.removeprefix(inside)) if named.startswith(inside) else named.removeprefix(f"{seen}/")
        try:
            if "://" not in path:
                file = open_inside(folder, path)
            elif (found := self.find(path, what)) is None:
                raise OutsideError(errno.EXDEV, "it is in no store that may be read")
            else:
                return found[0].get_file(found[1], target)
        except (FileNotFoundError, KeyNotFound) as error:
            raise RequestError(
                f"{what}: there is no file {named!r}.",
                code="missing_file",
                advice="Write it before the program ends, and name it by its path in the output folder.",
            ) from error
        except OSError as error:
            raise RequestError(
                f"{what}: {named!r} is not read: {error.strerror}.",
                code="bad_reference",
                advice="Name a file of the output folder, or an object of the run's own store or of one that "
                "SIMYARD_INPUT_STORES lists.",
            ) from error
        with on_disk("copy", target), file, target.open("xb") as copy:
            shutil.copyfileobj(file, copy, READ_BYTES)


def _is_below(location: Location, allowed: Location) -> bool:
    return location.bucket == allowed.bucket and (
        not allowed.prefix or location.prefix == allowed.prefix or location.prefix.startswith(f"{allowed.prefix}/")
    )
