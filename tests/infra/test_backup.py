"""A backup while everything runs; tests/e2e/test_topology.py rehearses the whole of it."""

from pathlib import Path

from infra.backup import _copied
from registry.stores.file import FileStore


class Busy(FileStore):
    """A store in which a run's heartbeat goes on as soon as somebody has listed it."""

    def list(self, prefix: str = "") -> list[str]:
        found = super().list(prefix)
        self.delete("ledger/owners/anna/00000001")
        return found


def test_what_goes_while_it_is_copied_is_left_out(tmp_path: Path) -> None:
    store = Busy(tmp_path / "results")
    for key in ("item/item.json", "ledger/owners/anna/00000001"):
        store.put_bytes(key, b"{}")
    assert 1 == _copied(store, tmp_path / "backup")
    assert [tmp_path / "backup/item/item.json"] == [p for p in (tmp_path / "backup").rglob("*") if p.is_file()]
