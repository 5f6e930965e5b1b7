"""A backup while everything runs; tests/e2e/test_topology.py rehearses the whole of it."""

import json
from pathlib import Path

import pytest

from infra.backup import Places, _copied, restore
from registry.errors import OptionsError, StoreError
from registry.files import sha256
from registry.stores.file import FileStore
from tests.servers import free_ports


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
    assert ["item/item.json"] == list(_copied(store, tmp_path / "backup"))
    assert [tmp_path / "backup/item/item.json"] == [p for p in (tmp_path / "backup").rglob("*") if p.is_file()]


def test_a_damaged_object_takes_no_good_ones_place(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    places = Places("", {"packages": store.uri})
    for key in ("a/roofs.dlpk", "b/roofs.dlpk"):
        store.put_bytes(key, b"good")
    copied = _copied(store, tmp_path / "stores" / "packages")
    record = {"databases": {}, "stores": {"packages": 2}}
    (tmp_path / "backup.json").write_text(json.dumps({**record, "objects": {"packages": copied}}))
    store.delete("a/roofs.dlpk")
    assert record == restore(places, tmp_path)
    (tmp_path / "stores" / "packages" / "b" / "roofs.dlpk").write_bytes(b"evil")
    store.delete("a/roofs.dlpk")
    with pytest.raises(OptionsError, match=r"packages/b/roofs\.dlpk: the object is not the one that was written"):
        restore(places, tmp_path)
    assert (["b/roofs.dlpk"], b"good") == (store.list(), store.get_bytes("b/roofs.dlpk"))


def test_a_backup_without_sums_of_its_objects_is_restored(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    FileStore(tmp_path / "stores" / "packages").put_bytes("roofs.dlpk", b"old")
    (tmp_path / "backup.json").write_text(json.dumps({"databases": {}, "stores": {"packages": 1}}))
    restore(Places("", {"packages": store.uri}), tmp_path)
    assert b"old" == store.get_bytes("roofs.dlpk")


def test_a_database_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    dump = tmp_path / "databases" / "mlflow.dump"
    dump.parent.mkdir()
    dump.write_bytes(b"dump")
    record = {"databases": {"mlflow": {"sha256": sha256(dump), "bytes": 4}}, "stores": {}}
    (tmp_path / "backup.json").write_text(json.dumps(record))
    places = Places(f"postgresql://owner:word@127.0.0.1:{free_ports(1)[0]}/postgres", {})
    with pytest.raises(StoreError, match=r"mlflow: cannot be restored \(.*refused.*check --server"):
        restore(places, tmp_path)
