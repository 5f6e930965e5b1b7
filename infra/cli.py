"""What an operator types: each parses, calls one function, prints one record."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from infra import local
from infra import plan as plans
from infra.plan import HOST, PORTS, default_folder
from registry.errors import NotFound, OptionsError
from registry.records import print_record, print_rows

if TYPE_CHECKING:
    from infra.backup import Places

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, as in a pipe.")
place = click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=None, required=False)
COLUMNS = ("name", "state", "pid", "starts", "address")


@click.command()
@place
@click.option("--cpu-workers", type=click.IntRange(0), help="Workers of the pool cpu.  [default: as before, else 1]")
@click.option("--gpu-workers", type=click.IntRange(0), help="Of the pool gpu.  [default: as before, else one a GPU]")
@as_json
def up(folder: Path | None, cpu_workers: int | None, gpu_workers: int | None, as_json: bool) -> None:
    """Start the whole topology on this machine, without containers.

    PostgreSQL, an S3 server, Prefect, MLflow, the page and workers, as plain processes that are started again when they
    die. In FOLDER, without it $DLPK_HOME/local, are their data, logs and secrets. The same command with other numbers
    of workers changes them while everything runs.
    """
    where = (folder or default_folder()).absolute()
    plan = local.up(where, cpu_workers, gpu_workers, lambda line: click.echo(line, err=True))
    print_record(local.record(plan), as_json)


@click.command()
@place
@as_json
def down(folder: Path | None, as_json: bool) -> None:
    """End every process of the topology; its data stay for the next `up`."""
    where = (folder or default_folder()).absolute()
    print_record({"folder": str(where), "ended": True, "strays": local.down(where)}, as_json)


@click.command()
@place
@as_json
def status(folder: Path | None, as_json: bool) -> None:
    """Show what runs of the topology; exit code 1 unless all of it works."""
    states = local.status((folder or default_folder()).absolute())
    print_rows([vars(state) for state in states], COLUMNS, as_json, nothing="Nothing.")
    if not all(state.fine for state in states):
        click.get_current_context().exit(1)


@click.command()
@as_json
def doctor(as_json: bool) -> None:
    """Look at every server, key, GPU, disk and version that a run needs, and say what to do.

    Exit code 1 if something is wrong.
    """
    from infra.doctor import examine, worst

    findings = examine()
    rows = [{**vars(finding), "do": "" if finding.state == "ok" else finding.do} for finding in findings]
    print_rows(rows, ("what", "state", "found", "do"), as_json, nothing="Nothing.")
    if worst(findings) == "wrong":
        click.get_current_context().exit(1)


@click.command()
@click.option("--host", default=HOST, show_default=True, help="Address to listen at.")
@click.option("--port", default=PORTS["metrics"], show_default=True, help="Port to listen at.")
def metrics(host: str, port: int) -> None:
    """Serve figures for Prometheus at /metrics: runs, queues, workers, throughput, GPUs, champions, disk."""
    from infra.figures import serve

    serve(host, port)


# -- backup ------------------------------------------------------------------------------------------------------------
topology = click.option(
    "--topology", type=click.Path(file_okay=False, path_type=Path), help="Folder of `dlpk up`.  [default: its own]"
)
server = click.option("--server", help="Another PostgreSQL: postgresql://owner:password@host:port/postgres")
stores = click.option("--store", "stores", multiple=True, metavar="NAME=URI", help="Another store; may be repeated.")


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@topology
@server
@stores
@as_json
def backup(out: Path, topology: Path | None, server: str | None, stores: tuple[str, ...], as_json: bool) -> None:
    """Write both databases and every object of the stores into the folder OUT, while everything runs."""
    from infra.backup import backup as do

    print_record(do(_places(topology, server, stores), out, lambda line: click.echo(line, err=True)), as_json)


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@topology
@server
@stores
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def restore(
    source: Path, topology: Path | None, server: str | None, stores: tuple[str, ...], yes: bool, as_json: bool
) -> None:
    """Put the backup SOURCE in the place of what is there now.

    The servers of `dlpk up` are started anew afterwards; start others yourself.
    """
    from infra.backup import restore as do

    places = _places(topology, server, stores)
    if not yes:
        click.confirm(f"Replace the databases of {places.server.rpartition('@')[2]}?", abort=True, err=True)
    record = do(places, source, lambda line: click.echo(line, err=True))
    if not server:
        local.restart((topology or default_folder()).absolute(), ("prefect", "mlflow"))
    print_record(record, as_json)


def _places(folder: Path | None, server: str | None, stores: tuple[str, ...]) -> "Places":
    from infra.backup import Places, of_topology

    if server:
        pairs = [pair.partition("=") for pair in stores]
        if wrong := [name for name, _, uri in pairs if not uri]:
            raise OptionsError("expected NAME=URI", where="--store", got=wrong[0])
        return Places(server, {name: uri for name, _, uri in pairs})
    plan = plans.read(folder or default_folder())
    if plan is None:
        raise NotFound("no topology was ever started here", where=folder or default_folder(), do="dlpk up")
    os.environ.update(plan.environment)
    return of_topology(plan)
