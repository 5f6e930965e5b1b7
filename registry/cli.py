"""The commands that browse and move models: each parses, calls one function, prints one record.

A table for people; JSON when the output is no terminal, or with --json.
"""

import json
import re
from pathlib import Path
from typing import IO, Any

import click

from registry.errors import OptionsError
from registry.records import print_record, print_rows

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, as in a pipe.")
folder = click.Path(file_okay=False, path_type=Path)
package = click.Path(exists=True, dir_okay=False, path_type=Path)
out = click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A new file; none: in place.")


@click.command()
@click.argument("text", default="")
@click.option("--type", "model_type", default="", help="Only this ModelType, e.g. ObjectDetection.")
@click.option("--alias", default="", help="Only versions that hold this alias.")
@click.option("--class", "class_name", default="", help="Only with this class.")
@click.option("--tag", default="", help="Only with this tag.")
@click.option("--sensor", default="", help="Only of this sensor, or a part of its name.")
@click.option("--band", "bands", multiple=True, help="Only with this band; may be given again.")
@click.option("--score", "least", default="", metavar="NAME=LEAST", help="Only from this score on, e.g. AP50=0.6.")
@click.option("--cell-size", default="", metavar="FROM:TO", help="Only of this cell size, e.g. 0.3:1, 0.3: or :1.")
@click.option("--extent", default="", metavar="W,S,E,N", help="Only trained on ground that meets this, in degrees.")
@click.option("--since", default="", metavar="DATE", help="Only published on this day or later, e.g. 2026-05-01.")
@click.option("--before", default="", metavar="DATE", help="Only published before this day.")
@click.option("--newest", is_flag=True, help="Only the newest of each model.")
@click.option("--sort", default="name", show_default=True, help="name, created, size, or a score: the best first.")
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="Begin with this one.")
@click.option("--count", type=click.IntRange(0), default=100, show_default=True, help="How many; 0: all.")
@as_json
def models(*, sort: str, newest: bool, extent: str, first: int, count: int, as_json: bool, **conditions: Any) -> None:
    """List the published models, or those whose name or classes contain TEXT."""
    from registry.searching import Wanted, page, read_extent

    wanted = Wanted(extent=read_extent(extent), **conditions)
    found = page(wanted, sort=sort, newest=newest, first=first, count=count)
    columns = ("ref", "aliases", "model_type", "classes", "scores", "size", "created")
    rows = [version.document() for version in found.versions]
    print_rows(rows, columns, as_json, nothing="No models are published yet.")
    if len(rows) < found.total:
        told = f"{first + 1} to {first + len(rows)} of {found.total:,}" if rows else f"none of {found.total:,}"
        click.echo(f"{told}; --first and --count show others, --count 0 all", err=True)


@click.command()
@click.argument("model", metavar="REF_OR_FILE")
@as_json
def show(model: str, as_json: bool) -> None:
    """Show all that is known of a version (roofs@champion) or of a .dlpk or .emd file."""
    from registry import catalog
    from registry.properties import properties

    print_record(properties(Path(model)) if _is_file(model) else catalog.described(model), as_json)


@click.command()
@click.argument("ref")
@click.option("--into", type=folder, help="Folder to copy the .dlpk into; without it, it stays in the cache.")
@as_json
def fetch(ref: str, into: Path | None, as_json: bool) -> None:
    """Fetch the .dlpk of a version out of the store; its sha256 is checked."""
    from registry import catalog

    print_record({"ref": ref, "path": str(catalog.fetch(ref, into))}, as_json)


@click.command()
@click.argument("ref", metavar="NAME@N")
@click.option("--alias", default="champion", show_default=True, help="The alias that the version gets.")
@click.option("--reason", default="", help="The note of who approves it; it is kept in the history.")
@click.option("--gate", type=click.File(), help="What `dlpk compare REF CHAMPION CHIPS` printed: it must be better.")
@as_json
def promote(ref: str, alias: str, reason: str, gate: IO[str] | None, as_json: bool) -> None:
    """Give a version an alias: the champion is the one in use.

    With --gate only a version that is surely better on the same held-out chips gets it.
    """
    from registry import catalog, promotion

    if "@" not in ref:
        raise OptionsError("expected the version to promote", got=ref, do="write NAME@3 or NAME@challenger")
    chosen = catalog.find_version(ref)
    if gate is None:
        version = promotion.promote(chosen.name, chosen.number, alias, reason=reason)
    else:
        version = promotion.promote_through(chosen, _record(gate), alias, reason=reason)
    print_record(version.document(), as_json)


@click.command()
@click.argument("name")
@click.option("--alias", default="champion", show_default=True, help="The alias that goes back.")
@click.option("--reason", default="", help="Why; it is kept in the history.")
@as_json
def rollback(name: str, alias: str, reason: str, as_json: bool) -> None:
    """Give the alias back to the version that held it before; again, and it goes back one more."""
    from registry import promotion

    print_record(promotion.rollback(name, alias, reason=reason).document(), as_json)


@click.command()
@click.argument("name")
@click.option("--alias", default="champion", show_default=True, help='Of this alias; "" is all.')
@as_json
def history(name: str, alias: str, as_json: bool) -> None:
    """Tell which version was champion when, why, by whose word and on which figures; the newest first."""
    from registry import history

    events = [event.document() for event in history.history(name, alias)]
    columns = ("at", "alias", "action", "version", "replaced", "until", "by", "reason", "gate")
    print_rows(events, columns, as_json, nothing="No alias was ever given.")


@click.command()
@click.argument("model", metavar="FILE_OR_REF")
@click.option("--key", "keys", multiple=True, help="Public key (PEM); one of those given must have signed it.")
@click.option("--identity", "identities", multiple=True, metavar="WHO=https://ISSUER", help="Who signed without a key.")
@as_json
def verify(model: str, keys: tuple[str, ...], identities: tuple[str, ...], as_json: bool) -> None:
    """Check a .dlpk, or the one behind a reference, against every rule for packages, and who signed it.

    Of a reference the store is read, also where this machine has fetched the package before.
    Without --key and --identity the signers of DLPK_SIGNERS count, where that is set.
    """
    from registry import catalog, dlpk, signing

    signers = tuple(map(signing.Signer.parse, (*keys, *identities))) or signing.known_signers()
    path = Path(model) if _is_file(model) else catalog.fetch(model, signatures=bool(signers), anew=True)
    found = dlpk.verify(path)
    told = {"signed_by": str(signing.signed_by(path, signers))} if signers else {}
    facts = {"path": str(found.path), "sha256": found.sha256, "size": found.size, "members": len(found.members)}
    print_record({"verdict": "whole", "name": found.name, **facts, **told}, as_json)


@click.command()
@click.argument("model", metavar="FILE_OR_REF")
@click.option("--key", default="", help="Private key (PEM), or keyless; none: DLPK_SIGN_KEY.")
@as_json
def sign(model: str, key: str, as_json: bool) -> None:
    """Sign a .dlpk, or the one behind a reference: a signature of OpenSSF's model-signing beside it.

    The password of the key is read from DLPK_SIGN_PASSWORD. What is published is signed by itself where DLPK_SIGN_KEY
    is set.
    """
    from registry import catalog, signing
    from registry.settings import settings

    if not (key := key or settings().sign_key):
        raise OptionsError("expected a key to sign with", where="--key", do="give it, or set DLPK_SIGN_KEY")
    made = signing.sign(Path(model), key) if _is_file(model) else catalog.sign(model, key)
    print_record({"model": model, "signature": str(made)}, as_json)


@click.command()
@click.argument("file", type=package)
@click.option("--into", type=folder, help="A new folder; without it, one beside the file, of its name.")
@as_json
def unpack(file: Path, into: Path | None, as_json: bool) -> None:
    """Unpack a .dlpk into a model folder."""
    from registry import dlpk

    made = dlpk.unpack(file, into or file.with_suffix(""))
    print_record({"name": made.name, "path": str(made.path), "members": len(made.files())}, as_json)


@click.command()
@click.argument("file", type=package)
@click.option("--description", help='Longer text; "" takes it out.')
@click.option("--summary", help='One line; "" takes it out.')
@click.option("--tags", help='Keywords with commas between them; "" takes them out.')
@click.option("--argument", "arguments", multiple=True, metavar="KEY=VALUE", help="Any other key, e.g. Threshold=0.4.")
@click.option("--class-name", "names", multiple=True, metavar="VALUE=NAME", help="New name of a class, e.g. 1=Roof.")
@click.option("--class-color", "colors", multiple=True, metavar="VALUE=R,G,B", help="Its new colour, or 1=#e63c28.")
@out
@as_json
def edit(
    file: Path,
    *,
    description: str | None,
    summary: str | None,
    tags: str | None,
    arguments: tuple[str, ...],
    names: tuple[str, ...],
    colors: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Change what a .dlpk or .emd file says of its model.

    VALUE of an argument is JSON, anything else is a text; null takes the key out. A change that would break a rule of
    ArcGIS is refused, and the file stays as it is.
    """
    from registry import editing
    from registry.properties import properties

    changes = editing.Changes(
        description,
        summary,
        None if tags is None else [word.strip() for word in tags.split(",") if word.strip()],
        {key: _value(text) for key, text in map(_pair, arguments)},
        {_number(key): text for key, text in map(_pair, names)},
        {_number(key): _color(text) for key, text in map(_pair, colors)},
    )
    print_record(properties(editing.edit(file, changes, out)), as_json)


@click.command("add-file")
@click.argument("file", type=package)
@click.argument("added", metavar="FILES", nargs=-1, required=True, type=package)
@click.option("--below", default="", help="Folder inside the package, e.g. ModelCharacteristics; none: its root.")
@out
@as_json
def add_file(file: Path, added: tuple[Path, ...], below: str, out: Path | None, as_json: bool) -> None:
    """Add FILES to a .dlpk, or replace those of their names."""
    from registry import editing
    from registry.properties import properties

    files = {f"{below.strip('/')}/{path.name}".lstrip("/"): path for path in added}
    print_record(properties(editing.add_files(file, files, out)), as_json)


@click.command("remove-file")
@click.argument("file", type=package)
@click.argument("names", nargs=-1, required=True)
@out
@as_json
def remove_file(file: Path, names: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Remove members from a .dlpk by their NAMES; what its definition needs stays."""
    from registry import editing
    from registry.properties import properties

    print_record(properties(editing.remove_files(file, names, out)), as_json)


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@as_json
def diff(a: str, b: str, as_json: bool) -> None:
    """Tell what differs between two packages, each a .dlpk or .emd file or a reference."""
    from registry import catalog
    from registry.differences import differences

    places = [Path(model) if _is_file(model) else catalog.fetch(model) for model in (a, b)]
    if len({place.suffix.lower() for place in places}) > 1:
        raise OptionsError("expected two packages, or two definitions", got=[a, b])
    print_record(differences(*places), as_json)


@click.command("import")
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--name", default="", help="Its name in the registry; none: that of its definition.")
@click.option("--note", default="", help="Where it came from; it is kept with the version.")
@click.option("--trust", is_flag=True, help="Take it even if its weights run code when they are loaded.")
@as_json
def import_(file: Path, *, name: str, note: str, trust: bool, as_json: bool) -> None:
    """Register a model that was made elsewhere: a .dlpk, an .emd or a model folder.

    Nothing of it is run. It tells what the model needs to run, and whether a verb here runs it.
    """
    from registry.importing import import_model

    version, needs = import_model(file, name, note=note, trust=trust)
    print_record({"version": version.ref, "sha256": version.sha256, **needs.document()}, as_json)


@click.command()
@click.option("--keep", type=int, default=5, show_default=True, help="Newest versions of each model that stay.")
@click.option("--name", default="", help="Only this model.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@as_json
def prune(*, keep: int, name: str, dry_run: bool, as_json: bool) -> None:
    """Remove old versions for good, but none with an alias, and none that a version that stays refers to."""
    from registry import pruning

    print_record(pruning.prune(keep, name=name, dry_run=dry_run).document() | {"dry_run": dry_run}, as_json)


@click.command()
@click.argument("portal_url")
@click.argument("model", metavar="REF_OR_FILE")
@click.option(
    "--token", envvar="DLPK_PORTAL_TOKEN", default="", help="Of a user who may publish; or DLPK_PORTAL_TOKEN."
)
@click.option("--title", default="", help="Of the item; none: the name of the model.")
@click.option("--item", default="", help="Id of an item that gets this as its new content; none: a new item.")
@click.option("--folder", default="", help="Id of a folder of the user.")
@as_json
def share(portal_url: str, model: str, *, token: str, title: str, item: str, folder: str, as_json: bool) -> None:
    """Share a package in ArcGIS Online or Enterprise, as an item of type Deep Learning Package."""
    from tempfile import TemporaryDirectory

    from registry import catalog
    from registry.portal import Portal

    if not token:
        raise OptionsError("a portal asks for a token", where="--token", do="set the variable DLPK_PORTAL_TOKEN")
    dlpk = Path(model) if _is_file(model) else catalog.fetch(model)
    with TemporaryDirectory() as work:
        made = Portal(portal_url, token).share(dlpk, Path(work), title=title, item=item, folder=folder)
    print_record(made, as_json)


registry_commands: list[click.Command] = [
    *(models, show, fetch, promote, rollback, history, verify, sign, unpack),
    *(edit, add_file, remove_file, diff, import_, prune, share),
]


def _is_file(model: str) -> bool:
    """A path, or a reference? Raises OptionsError for a path at which there is nothing."""
    if Path(model).is_file():
        return True
    if model.lower().endswith((".dlpk", ".emd")) or "/" in model:
        raise OptionsError("no such file", where=model, do="give a .dlpk file or a reference such as roofs@champion")
    return False


def _record(file: IO[str]) -> dict[str, Any]:
    try:
        found = json.load(file)
    except ValueError as error:
        raise OptionsError(f"is no JSON ({error})", where=file.name, do="write it with `dlpk compare`") from error
    if not isinstance(found, dict):
        raise OptionsError("expected a JSON object", where=file.name, got=type(found).__name__)
    return found


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise OptionsError("expected KEY=VALUE", got=text)
    return key.strip(), value.strip()


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise OptionsError("expected the Value of a class, a whole number", got=text) from None


def _color(text: str) -> tuple[int, int, int]:
    hexadecimal = re.fullmatch("#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", text)
    parts = [int(part, 16) for part in hexadecimal.groups()] if hexadecimal else re.findall(r"\d+", text)
    if len(parts) != 3 or not all(0 <= int(part) <= 255 for part in parts):
        raise OptionsError("expected a colour", got=text, do="write 230,60,40 or #e63c28")
    return int(parts[0]), int(parts[1]), int(parts[2])
