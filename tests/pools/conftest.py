"""The site that the tests of container pools share."""

import urllib.request
from collections.abc import Iterator

import containers
import pytest
from fleets import Fleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, s3_server: str) -> Iterator[Fleet]:
    """The site, without a worker."""
    request = urllib.request.Request(f"{s3_server}/robots", method="PUT")
    urllib.request.urlopen(request).close()
    with containers.serving(own_network=False) as podman:
        site = Fleet(tmp_path_factory.mktemp("fleet"), podman, s3_server)
        (site.folder / "prefect").mkdir()
        site.start_server()
        try:
            yield site
        finally:
            site.stop_worker()
            site.stop_server()
