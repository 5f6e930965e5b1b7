"""What an operator types: each parses, calls one function, prints one record."""

from pathlib import Path

import click

from infra import local
from infra.plan import default_folder
from registry.records import print_record, print_rows

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
