"""The commands of the page to browse: serve it, and give somebody a token for it."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING

import click

from registry.errors import DlpkError, OptionsError, StoreError

if TYPE_CHECKING:
    from registry.web.configuration import Configuration

PORT = 8321
ROLES = ("browse", "trigger", "promote")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; others ask for tokens.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="Port; 0: any free one.")
def browse(host: str, port: int) -> None:
    """Serve the page to browse: models, versions, results and runs.

    Without a configuration it serves this machine alone. Who else may see, trigger and promote is told in
    browse.yaml in the home folder, or in the file that DLPK_BROWSE names.
    """
    import uvicorn

    from registry.web import configuration
    from registry.web.app import create

    known = configuration.read()
    check_address(host, known)
    port = free_port(host, port)
    server = uvicorn.Server(
        uvicorn.Config(
            create(known),
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            proxy_headers=False,  # whom a proxy may speak for is told in the configuration
            server_header=False,
            timeout_keep_alive=15,
            limit_concurrency=500,
            timeout_graceful_shutdown=5,
        )
    )
    click.echo(f"http://{'[' + host + ']' if ':' in host else host}:{port}  (Ctrl+C ends it)", err=True)
    Thread(target=get_ready, daemon=True).start()
    server.run()


def free_port(host: str, port: int = 0) -> int:
    """This one, or any, on which nobody listens now. Raises StoreError for one that is taken."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            return int(probe.getsockname()[1])
    except OSError as error:
        what, do = f"cannot be listened at ({error.strerror})", "choose another one by --port, 0 for any that is free"
        raise StoreError(what, where=f"{host}:{port}", do=do) from error


def get_ready() -> None:
    """Read the catalog before anybody asks; what is wrong with it the pages will tell."""
    from registry.newest import names
    from registry.searching import Wanted

    with suppress(DlpkError):
        names(Wanted(), count=1)


def check_address(host: str, known: Configuration) -> None:
    """Raises OptionsError for an address that others can reach while nobody needs to sign in."""
    if known.open and not _is_loopback(host):
        do = "make a token first: dlpk token NAME --role browse"
        raise OptionsError("nobody would have to sign in", where=f"--host {host}", do=do)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@click.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default="browse", show_default=True, help="What one may do with it.")
def token(name: str, role: str) -> None:
    """Make a token with which NAME signs in on the page; it is shown once, and only its hash is kept.

    Each role may do what those before it may: browse looks and downloads, trigger starts and cancels runs, promote
    decides which version is champion.
    """
    from registry.web import configuration

    made = configuration.add_token(name, configuration.Role(role))
    click.echo(made)
    click.echo(f"kept in {configuration.path()}; restart `dlpk browse` so that it knows the token", err=True)


web_commands: list[click.Command] = [browse, token]
