"""One suite for every store; what only a real server or a broken wire can show follows it."""

import hashlib
import logging
import os
import random
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from registry.errors import Conflict, Denied, NotFound, StoreError
from registry.files import sha256
from registry.stores import Store, locate, open_store
from registry.stores.file import FileStore
from registry.stores.s3 import S3Store
from tests.servers import SMALLEST_PART, Proxy, Seaweed, free_ports, seaweed

LARGE = 12 * 2**20  # bytes: three parts of the smallest size that S3 knows


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["folder", *(pytest.param(server, marks=pytest.mark.slow) for server in ("moto", "seaweed"))])
def uri(request: pytest.FixtureRequest, tmp_path: Path, use: Callable[[str], str]) -> str:
    """Where an empty store is, of each kind."""
    if request.param == "folder":
        return (tmp_path / "store").as_uri()
    if request.param == "seaweed":
        return use(request.getfixturevalue("weed").endpoint)
    place = use(request.getfixturevalue("moto"))
    made = open_store(place)
    assert isinstance(made, S3Store)
    made.client.create_bucket(Bucket="models")
    return place


@pytest.fixture
def store(uri: str) -> Store:
    return open_store(uri)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    (tmp_path / "large.bin").write_bytes(random.Random(1).randbytes(LARGE))
    return tmp_path / "large.bin"


def file_of(folder: Path, content: bytes) -> Path:
    path = folder / f"{uuid.uuid4()}.bin"
    path.write_bytes(content)
    return path


# -- what every store keeps --------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_what_was_put_comes_back(store: Store, tmp_path: Path) -> None:
    uri = store.put("roofs/1/roofs.dlpk", file_of(tmp_path, b"content"))
    assert f"{store.uri}/roofs/1/roofs.dlpk" == uri
    assert b"content" == store.get("roofs/1/roofs.dlpk", tmp_path / "back").read_bytes()
    assert b"content" == store.get_bytes("roofs/1/roofs.dlpk")


def test_a_part_of_an_object_is_read_alone(store: Store) -> None:
    store.put_bytes("roofs/part", b"0123456789")
    spans = {(0, 3): b"012", (8, 5): b"89", (20, 4): b"", (4, 0): b""}
    assert spans == {span: store.get_range("roofs/part", *span) for span in spans}
    with pytest.raises(NotFound, match="no such"):
        store.get_range("roofs/missing", 0, 4)


@pytest.mark.slow
def test_a_large_file_comes_back(store: Store, tmp_path: Path, large: Path) -> None:
    store.put("large", large)
    assert large.read_bytes() == store.get("large", tmp_path / "back").read_bytes()
    assert store.put("large", large) == f"{store.uri}/large"
    with pytest.raises(Conflict, match="holds other bytes"):
        store.put("large", file_of(tmp_path, bytes(LARGE)))


@pytest.mark.slow
def test_a_uri_leads_back_to_its_store(store: Store) -> None:
    uri = store.put_bytes("roofs/1/manifest.json", b"{}")
    again, key = locate(uri, depth=3)
    assert (store.uri, "roofs/1/manifest.json") == (again.uri, key)
    assert b"{}" == again.get_bytes(key)


def test_the_same_bytes_twice_are_the_same_object(store: Store, tmp_path: Path) -> None:
    assert 1 == len({store.put("a", file_of(tmp_path, b"same")) for _ in range(2)} | {store.put_bytes("a", b"same")})


@pytest.mark.slow
def test_other_bytes_never_overwrite(store: Store, tmp_path: Path) -> None:
    store.put_bytes("a", b"first")
    with pytest.raises(Conflict, match=r"holds other bytes; publish under another name"):
        store.put("a", file_of(tmp_path, b"second"))
    assert b"first" == store.get_bytes("a")


def test_keys_are_listed_in_order_below_a_prefix(store: Store) -> None:
    assert [] == store.list()
    for key in ("b/2/x", "a/10/x", "a/2/x", "ab"):
        store.put_bytes(key, b"x")
    assert ["a/10/x", "a/2/x", "ab", "b/2/x"] == store.list()
    assert ["a/10/x", "a/2/x"] == store.list("a/")
    assert [] == store.list("c")


def test_a_file_that_changed_since_its_digest_was_taken_is_not_kept(store: Store, tmp_path: Path) -> None:
    (tmp_path / "roofs.dlpk").write_bytes(b"other")
    with pytest.raises(StoreError, match="the file changed while it was read; publish it again"):
        store.put("roofs/changed.dlpk", tmp_path / "roofs.dlpk", hashlib.sha256(b"one").hexdigest())
    assert not store.exists("roofs/changed.dlpk")


def test_a_key_exists_once_it_is_put(store: Store) -> None:
    assert not store.exists("a")
    store.put_bytes("a", b"")
    assert store.exists("a")
    assert not store.exists("a/b")


def test_a_deleted_key_is_gone_and_its_place_is_free(store: Store) -> None:
    store.put_bytes("a/1", b"one")
    store.put_bytes("a/2", b"two")
    for _ in range(2):
        store.delete("a/1")
    assert ["a/2"] == store.list()
    store.put_bytes("a/1", b"other")
    assert b"other" == store.get_bytes("a/1")


@pytest.mark.slow
def test_a_missing_key_is_told_and_leaves_no_file(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such object"):
        store.get("gone", tmp_path / "back")
    with pytest.raises(NotFound, match="no such object"):
        store.get_bytes("gone")
    assert not (tmp_path / "back").exists()


@pytest.mark.slow
@pytest.mark.parametrize("key", ["../a", "/a", "a//b", "", ".hidden", "a/.part", "a\\b"])
def test_a_key_that_could_leave_the_store_is_refused(store: Store, key: str) -> None:
    with pytest.raises(StoreError, match="plain names"):
        store.put_bytes(key, b"x")


@pytest.mark.slow
def test_of_many_writers_exactly_one_wins(uri: str) -> None:
    def write(number: int) -> bytes | None:
        content = f"writer {number}".encode()
        try:
            open_store(uri).put_bytes("prize", content)
        except Conflict:
            return None
        return content

    with ThreadPoolExecutor(8) as threads:
        (winner,) = filter(None, threads.map(write, range(8)))
    assert winner == open_store(uri).get_bytes("prize")


# moto dates every upload to 2010, so to it all of them are stale
@pytest.mark.parametrize("uri", ["folder", pytest.param("seaweed", marks=pytest.mark.slow)], indirect=True)
def test_many_writers_of_the_same_large_file_all_succeed(uri: str, large: Path) -> None:
    with ThreadPoolExecutor(3) as threads:
        found = set(threads.map(lambda _: open_store(uri).put("large", large), range(3)))
    assert {f"{uri}/large"} == found
    assert large.read_bytes() == open_store(uri).get_bytes("large")


# -- the folder alone --------------------------------------------------------------------------------------------------
def test_a_writer_killed_in_a_folder_leaves_nothing_visible(tmp_path: Path) -> None:
    program = """
        import os, sys
        from pathlib import Path
        from registry.stores.file import FileStore
        def half(part):
            part.write_bytes(b"half")
            os.kill(os.getpid(), 9)
        FileStore(Path(sys.argv[1]))._put("a/x", "0", half)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    assert -9 == subprocess.run(command, check=False).returncode
    store = FileStore(tmp_path)
    assert ([], False) == (store.list(), store.exists("a/x"))
    store.put_bytes("a/x", b"whole")
    assert b"whole" == store.get_bytes("a/x")


def test_what_is_removed_while_a_folder_is_listed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, scan = FileStore(tmp_path), os.scandir
    for key in ("a/1", "b/1"):
        store.put_bytes(key, b"")

    def meanwhile(place: Path | str) -> object:
        if other := {"a": "b/1", "b": "a/1"}.get(Path(place).name):
            store.delete(other)
        return scan(place)

    monkeypatch.setattr(os, "scandir", meanwhile)
    assert 1 == len(store.list())


def test_a_folder_that_is_emptied_and_removed_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, link, deleted = FileStore(tmp_path), os.link, list[str]()
    store.put_bytes("claims/a", b"")

    def late(part: Path, final: Path) -> None:
        if not deleted:
            deleted.append("claims/a")
            part.unlink()  # of others none lies there
            store.delete("claims/a")
        link(part, final)

    monkeypatch.setattr(os, "link", late)
    store.put_bytes("claims/b", b"")
    assert ["claims/b"] == store.list()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"the store failed \(.*\).*run the same command again"):
        FileStore(tmp_path / "file").put_bytes("a", b"x")


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    def full(_: Path) -> str:
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"No space left on device.*free space"):
        FileStore(tmp_path)._put("a", "0", full)
    assert [] == list(tmp_path.iterdir())


# -- broken wires and servers ------------------------------------------------------------------------------------------
def moto_port(endpoint: str) -> int:
    return int(endpoint.rsplit(":", 1)[1])


@pytest.fixture(params=["moto", pytest.param("seaweed", marks=pytest.mark.slow)])
def port(request: pytest.FixtureRequest, use: Callable[[str], str]) -> int:
    """Of an S3 server with the bucket `models`."""
    if request.param == "seaweed":
        return int(request.getfixturevalue("weed").port)
    endpoint = request.getfixturevalue("moto")
    made = open_store(use(endpoint))
    assert isinstance(made, S3Store)
    made.client.create_bucket(Bucket="models")
    return moto_port(endpoint)


@pytest.mark.slow
def test_a_put_whose_answer_is_lost_succeeds(port: int, use: Callable[[str], str]) -> None:
    with Proxy(port, mark=b"") as proxy:
        place = use(proxy.endpoint)
        proxy.mark = f"PUT /{place.removeprefix('s3://')}/manifest.json".encode()
        assert f"{place}/manifest.json" == open_store(place).put_bytes("manifest.json", b"{}")
        assert proxy.seen
        assert b"{}" == open_store(place).get_bytes("manifest.json")


@pytest.mark.slow
def test_a_completion_whose_answer_is_lost_succeeds(port: int, use: Callable[[str], str], large: Path) -> None:
    with Proxy(port, mark=b"CompleteMultipartUpload") as proxy:
        place = use(proxy.endpoint)
        assert f"{place}/large" == open_store(place).put("large", large)
        assert proxy.seen
        assert large.read_bytes() == open_store(place).get_bytes("large")


def test_a_server_without_conditional_put_is_served_with_a_warning(
    moto: str, use: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    direct = open_store(use(moto))
    assert isinstance(direct, S3Store)
    direct.client.create_bucket(Bucket="models")
    with Proxy(moto_port(moto), mark=b"", rewrite=(b"If-None-Match", b"If-None-Other")) as proxy:
        store = open_store(use(proxy.endpoint))
        for _ in range(2):
            store.put_bytes("a", b"first")
            store.put_bytes("b", b"first")
        with pytest.raises(Conflict, match="holds other bytes"):
            store.put_bytes("a", b"second")
    assert 1 == sum("does not honour If-None-Match" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("port", [pytest.param("seaweed", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize("by_content", [False, True])
def test_a_publisher_killed_in_a_large_upload_leaves_nothing_visible(
    port: int, use: Callable[[str], str], large: Path, tmp_path: Path, by_content: bool
) -> None:
    key = f"{sha256(large)}/large" if by_content else "large"
    publishers: list[subprocess.Popen[bytes]] = []
    with Proxy(port, mark=b"partNumber=3", then=lambda: publishers[0].send_signal(9)) as proxy:
        place = use(proxy.endpoint)
        program = f"""
            from pathlib import Path
            from registry.stores import open_store, s3
            s3.PART = {SMALLEST_PART}
            open_store({place!r}).put({key!r}, Path({str(large)!r}))
        """
        publishers.append(subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)]))
        assert -9 == publishers[0].wait(60)
    use(f"http://127.0.0.1:{port}")
    store = open_store(place)
    assert isinstance(store, S3Store)
    assert ([], False) == (store.list(), store.exists(key))
    store.put(key, large)
    assert large.read_bytes() == store.get(key, tmp_path / "back").read_bytes()
    assert 0 == store.sweep()  # younger than a day: somebody may still be at it
    assert (0 if by_content else 1) == store.sweep(timedelta(0))  # of the same bytes it was taken up again
    assert 0 == store.sweep(timedelta(0))
    assert [key] == store.list()


@pytest.mark.slow
def test_a_server_killed_in_a_large_upload_takes_it_after_its_restart(
    tmp_path: Path, use: Callable[[str], str], large: Path
) -> None:
    with seaweed(tmp_path, "models") as server, Proxy(server.port, mark=b"partNumber=3", then=server.kill) as proxy:
        place = use(proxy.endpoint)
        open_store(place).put_bytes("before", b"kept")
        with pytest.raises(StoreError, match="the server did not answer"):
            open_store(place).put("large", large)
        server.start()
        assert ["before"] == open_store(place).list()
        open_store(place).put("large", large)
        assert large.read_bytes() == open_store(place).get_bytes("large")
        assert b"kept" == open_store(place).get_bytes("before")


@pytest.mark.slow
def test_a_download_is_taken_up_where_the_wire_broke(port: int, use: Callable[[str], str], large: Path) -> None:
    place = use(f"http://127.0.0.1:{port}")
    open_store(place).put("large", large)
    with Proxy(port, mark=b"GET /") as proxy:
        use(proxy.endpoint)
        proxy.cut_after = 3 * 2**20
        assert large.read_bytes() == open_store(place).get_bytes("large")
        assert proxy.seen


# -- what is told ------------------------------------------------------------------------------------------------------
def test_a_server_that_is_not_there_is_told(use: Callable[[str], str]) -> None:
    place = use(f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(StoreError, match=r"the server did not answer .*check that the server runs"):
        open_store(place).put_bytes("a", b"x")


def test_a_missing_bucket_is_told(port: int, use: Callable[[str], str]) -> None:
    use(f"http://127.0.0.1:{port}")
    store = open_store("s3://no-such-bucket/x")
    for ask in (
        lambda: store.put_bytes("a", b"x"),
        lambda: store.get_bytes("a"),
        store.list,
        lambda: store.exists("a"),
    ):
        with pytest.raises(Denied, match=r"s3://no-such-bucket: there is no such bucket; create it"):
            ask()


@pytest.mark.slow
def test_wrong_keys_are_told(weed: Seaweed, use: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    place = use(weed.endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for ask in (open_store(place).list, lambda: open_store(place).put_bytes("a", b"x")):
        with pytest.raises(StoreError, match=r"refused the credentials .*check AWS_ACCESS_KEY_ID"):
            ask()


def test_missing_keys_are_told(moto: str, use: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    place = use(moto)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(StoreError, match=r"no credentials .*set AWS_ACCESS_KEY_ID"):
        open_store(place).list()


def test_an_object_that_was_changed_behind_our_back_is_not_handed_out(
    port: int, use: Callable[[str], str], tmp_path: Path
) -> None:
    store = open_store(use(f"http://127.0.0.1:{port}"))
    assert isinstance(store, S3Store)
    at = {"Bucket": store.bucket, "Key": f"{store.prefix}a"}
    store.client.put_object(**at, Body=b"changed", Metadata={"sha256": "0" * 64})
    with pytest.raises(StoreError, match=r"expected the sha256 000.*the object is damaged"):
        store.get("a", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_what_no_store_would_put_is_not_listed(moto: str, use: Callable[[str], str]) -> None:
    store = open_store(use(moto))
    assert isinstance(store, S3Store)
    store.client.create_bucket(Bucket="models")
    for key in ("", "2026/", "2026//a", "2026/a"):  # the first two are folders, as a console makes them
        store.client.put_object(Bucket=store.bucket, Key=f"{store.prefix}{key}", Body=b"")
    assert ["2026/a"] == store.list()


@pytest.mark.slow
def test_an_object_of_another_program_is_compared_by_its_content(port: int, use: Callable[[str], str]) -> None:
    store = open_store(use(f"http://127.0.0.1:{port}"))
    assert isinstance(store, S3Store)
    store.client.put_object(Bucket=store.bucket, Key=f"{store.prefix}a", Body=b"theirs")
    assert f"{store.uri}/a" == store.put_bytes("a", b"theirs")
    with pytest.raises(Conflict, match="holds other bytes"):
        store.put_bytes("a", b"ours")


@pytest.mark.slow
def test_older_servers_are_sent_no_checksum_headers(
    moto: str, use: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, large: Path
) -> None:
    monkeypatch.setenv("DLPK_S3_CHECKSUMS", "when_required")
    direct = open_store(use(moto))
    assert isinstance(direct, S3Store)
    direct.client.create_bucket(Bucket="models")
    with Proxy(moto_port(moto), mark=b"x-amz-checksum", then=lambda: None) as proxy:
        store = open_store(use(proxy.endpoint))
        store.put_bytes("a", b"x")
        store.put("large", large)
        assert not proxy.seen
