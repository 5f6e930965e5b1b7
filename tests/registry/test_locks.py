"""A lock on an open file: one holder, or several that share it; a death gives it back."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from registry.locks import locked

HOLDS = """
import sys
from registry.locks import locked
file = open(sys.argv[1], "w")
print(locked(file), flush=True)
input()
"""


def test_one_holds_it_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as first, path.open() as second:
        assert locked(first)
        assert not locked(second)
        assert not locked(second, shared=True)
        first.close()
        assert locked(second)


def test_those_who_share_it_keep_out_the_one_who_does_not(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as first, path.open() as second, path.open() as third:
        assert locked(first, shared=True)
        assert locked(second, shared=True)
        assert not locked(third)


@pytest.mark.slow
def test_a_killed_holder_gives_it_back_to_the_one_who_waits(tmp_path: Path) -> None:
    (path := tmp_path / "lock").touch()
    holder = [sys.executable, "-c", HOLDS, str(path)]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process, path.open() as ours:
        assert process.stdout
        assert b"True\n" == process.stdout.readline()
        assert not locked(ours)
        process.kill()
        assert locked(ours, wait=True)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_without_locks_gives_optional_ones_only(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(number, "no locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with (tmp_path / "lock").open("w") as file:
        with pytest.raises(OSError, match="no locks available"):
            locked(file)
        assert locked(file, optional=True)


def test_another_error_is_told(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as file:
        number = file.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        locked(number, optional=True)
