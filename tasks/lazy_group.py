"""A command group that imports nothing but the command which is called, so that it starts at once."""

import errno
import types
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from registry.errors import FULL, DlpkError, StoreError

FORBIDDEN = (errno.EACCES, errno.ENOTDIR, errno.EPERM, errno.EROFS)


def imported(address: str) -> Any:
    """What `package.module:name` names."""
    module, _, name = address.partition(":")
    return getattr(import_module(module), name)


class LazyGroup(click.Group):
    """A group that knows its commands by name and one line of help, and imports one when it is called.

    A command is an address `package.module:name`, or `package.module:list` of commands to look the name up in.
    Another name of a command is among the `aliases`, {other name: name}, and not in the list.
    """

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, tuple[str, str]],
        aliases: Mapping[str, str] = types.MappingProxyType({}),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lazy, self.aliases = lazy, aliases

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        name = self.aliases.get(name, name)
        if name not in self.lazy:
            return None
        found = imported(self.lazy[name][0])
        command = found if isinstance(found, click.Command) else next(c for c in found if c.name == name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.lazy.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (DlpkError, OSError, RuntimeError) as error:
            told = error if isinstance(error, DlpkError) else _of_disk(error)
            if told is None or ctx.params.get("debug"):
                raise
            from tasks import console  # it brings rich

            console.end(ctx.obj, told)
            ctx.exit(1)


def _of_disk(error: OSError | RuntimeError) -> StoreError | None:
    """What a full or forbidden disk means to a user; None for any other error. torch.save hides it behind its own."""
    known = error if isinstance(error, OSError) else error.__context__
    if not isinstance(known, OSError):
        return None
    where = known.filename2 or known.filename or ""  # the second is what was to be written
    if known.errno not in FULL and not (known.errno in FORBIDDEN and where):  # a port has no name
        return None
    do = "free some space, or look at your rights there, then run the same command again"
    return StoreError(f"the disk refuses ({known.strerror})", where=where, do=do)
