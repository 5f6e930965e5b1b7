import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from registry.errors import DlpkError, StoreError
from registry.files import atomic, part_of, sha256, sweep_parts, write_text


def test_a_file_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    with atomic(tmp_path / "deep" / "a.txt") as part:
        part.write_text("new")
        assert not (tmp_path / "deep" / "a.txt").exists()
    assert ["a.txt"] == [path.name for path in (tmp_path / "deep").iterdir()]


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fail() -> None:
        with atomic(tmp_path / "a.txt") as part:
            part.write_text("half")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert "old" == (tmp_path / "a.txt").read_text()
    assert ["a.txt"] == [path.name for path in tmp_path.iterdir()]


def test_a_full_disk_is_told_with_its_remedy(tmp_path: Path) -> None:
    def fill() -> None:
        with atomic(tmp_path / "a.txt"):
            raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"No space left on device.*free some space") as caught:
        fill()
    assert isinstance(caught.value, DlpkError)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file/a.txt", "file/deep/a.txt"])
def test_a_place_that_cannot_be_a_folder_is_told(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"a\.txt: cannot write .*choose another place"):
        write_text(tmp_path / place, "new")


def test_a_killed_writer_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    program = """
        import os, sys
        from pathlib import Path
        from registry.files import atomic
        with atomic(Path(sys.argv[1])) as part:
            part.write_text("half")
            os.kill(os.getpid(), 9)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "a.txt")]
    assert -9 == subprocess.run(command, check=False).returncode
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")
    sweep_parts(tmp_path / "a.txt")  # its writer ran here and is gone, so nobody waits a day
    assert [] == list(tmp_path.iterdir())


def test_what_killed_writers_left_goes_after_a_day(tmp_path: Path) -> None:
    old, young, other = part_of(tmp_path / "a"), part_of(tmp_path / "a"), part_of(tmp_path / "b")
    for path in (old, young, other):
        path.mkdir()
    for path in (old, other):
        os.utime(path, (time.time() - 100_000,) * 2)
    sweep_parts(tmp_path / "a")
    assert {young, other} == set(tmp_path.iterdir())


def test_a_digest_names_the_content(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a", "abc")
    assert "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" == sha256(path)


def test_line_ends_stay_as_given(tmp_path: Path) -> None:
    assert b"a\r\nb\n" == write_text(tmp_path / "a", "a\r\nb\n").read_bytes()
