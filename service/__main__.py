"""`python -m simyard.service`: one copy of the HTTP service."""

from __future__ import annotations

import sys

import click

from simyard.core.errors import EXIT_BAD_REQUEST, RequestError
from simyard.core.process import keep_private, reach_loopback_directly
from simyard.service import connections
from simyard.service.app import create_app
from simyard.service.settings import Settings


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8400, show_default=True, help="Port to listen on.")
def serve(host: str, port: int) -> None:
    """Serve the HTTP API until a signal ends it; PREFECT_API_URL says which Prefect server has the flows."""
    keep_private()
    reach_loopback_directly()
    try:
        app = create_app(Settings.from_env())
    except RequestError as error:
        click.echo(f"Bad setting: {error}", err=True)
        sys.exit(EXIT_BAD_REQUEST)
    connections.serve(app, host, port)


if __name__ == "__main__":
    serve()
