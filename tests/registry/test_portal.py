"""Sharing, against a stand-in of a portal that keeps what it is sent and refuses what a portal would."""

import json
import threading
from collections.abc import Iterator
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from click.testing import CliRunner

from registry.cli import registry_commands
from registry.editing import Changes, edit
from registry.errors import OptionsError, StoreError
from registry.portal import Portal

HEAD = {"title": "roofs", "snippet": "Finds roofs", "description": "Of a town", "tags": "roof,town"}


class StandIn(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, str], dict[str, list[tuple[str, bytes]]]]] = []
        self.content = b""
        self.waiting = 1  # how often the status is not yet `completed`

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/portal"


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        fields, files = self.form(self.rfile.read(int(self.headers["Content-Length"])))
        path = self.path.removeprefix("/portal/sharing/rest/")
        self.server.asked.append((path, fields, files))
        answer = json.dumps(self.answer(path, fields, files)).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def answer(self, path: str, fields: dict[str, str], files: dict[str, Any]) -> dict[str, Any]:
        if fields.get("token") != "secret" or fields.get("f") != "json":
            return {"error": {"code": 498, "message": "Invalid token.", "details": []}}
        if path == "community/self":
            return {"username": "ada"}
        match path.removeprefix("content/users/ada/").split("/"):
            case ["addItem"] if fields.get("type") == "Deep Learning Package" and fields.get("title"):
                self.keep(files)
                return {"success": True, "id": "i1", "folder": None}
            case ["items", "i1", "addPart"]:
                self.keep(files)
                return {"success": True}
            case ["items", "i1", "update"]:
                self.keep(files)
                return {"success": True, "id": "i1"}
            case ["items", "i1", "commit"]:
                return {"success": True, "id": "i1"}
            case ["items", "i1", "status"]:
                self.server.waiting -= 1
                return {"status": "processing" if self.server.waiting >= 0 else "completed", "itemId": "i1"}
        return {"error": {"code": 400, "message": "Unable to add item.", "details": ["Item type\nis not known."]}}

    def keep(self, files: dict[str, list[tuple[str, bytes]]]) -> None:
        for _, content in files.get("file", []):
            self.server.content += content

    def form(self, body: bytes) -> tuple[dict[str, str], dict[str, list[tuple[str, bytes]]]]:
        kind = self.headers["Content-Type"]
        if kind.startswith("application/x-www-form-urlencoded"):
            return {key: values[0] for key, values in parse_qs(body.decode()).items()}, {}
        message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
        fields: dict[str, str] = {}
        files: dict[str, list[tuple[str, bytes]]] = {}
        for part in message.iter_parts():
            name = str(part.get_param("name", header="content-disposition"))
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            if filename := part.get_filename():
                files.setdefault(name, []).append((filename, content))
            else:
                fields[name] = content.decode()
        return fields, files

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def told_of(dlpk: Path) -> Path:
    return edit(dlpk, Changes("Of a town", "Finds roofs", ["roof", "town"]))


def test_a_package_becomes_an_item_with_every_field(stand_in: StandIn, told_of: Path, tmp_path: Path) -> None:
    made = Portal(stand_in.url, "secret").share(told_of, tmp_path)
    assert ("i1", f"{stand_in.url}/home/item.html?id=i1", "ada") == (made["item"], made["url"], made["owner"])
    (_, add, added), (path, update, updated) = stand_in.asked[1:]
    facts = {**HEAD, "typeKeywords": "ModelType_ImageClassification", "f": "json", "token": "secret"}
    assert {**facts, "type": "Deep Learning Package"} == add
    assert [("roofs.dlpk", told_of.read_bytes())] == added["file"]
    assert ("content/users/ada/items/i1/update", facts) == (path, update)
    assert [("loss_graph.png", b"\x89PNG")] == updated["screenshots"]


@pytest.mark.slow
def test_a_large_package_goes_in_parts(stand_in: StandIn, told_of: Path, tmp_path: Path) -> None:
    Portal(stand_in.url, "secret", part_size=500).share(told_of, tmp_path)
    paths = [path.rpartition("/")[2] for path, _, _ in stand_in.asked]
    parts = -(-told_of.stat().st_size // 500)
    assert ["self", "addItem", *["addPart"] * parts, "commit", "status", "status", "update"] == paths
    assert [str(n + 1) for n in range(parts)] == [
        fields["partNum"] for _, fields, _ in stand_in.asked if "partNum" in fields
    ]
    assert ("true", "roofs.dlpk") == (stand_in.asked[1][1]["multipart"], stand_in.asked[1][1]["filename"])
    assert told_of.read_bytes() == stand_in.content


def test_an_item_gets_new_content(stand_in: StandIn, told_of: Path, tmp_path: Path) -> None:
    Portal(stand_in.url, "secret").share(told_of, tmp_path, item="i1", title="Roofs of 2026")
    assert ["self", "update", "update"] == [path.rpartition("/")[2] for path, _, _ in stand_in.asked]
    assert (told_of.read_bytes(), "Roofs of 2026") == (stand_in.content, stand_in.asked[2][1]["title"])


def test_a_package_without_tags_gets_the_one_that_portals_want(stand_in: StandIn, dlpk: Path, tmp_path: Path) -> None:
    Portal(stand_in.url, "secret").share(dlpk, tmp_path)
    assert "deep learning" == stand_in.asked[1][1]["tags"]
    assert "snippet" not in stand_in.asked[1][1]


def test_a_refusal_is_told_in_one_line_without_the_token(stand_in: StandIn, dlpk: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"refused \(Invalid token\.\); make a new token") as caught:
        Portal(stand_in.url, "wrong").share(dlpk, tmp_path)
    assert "wrong" not in str(caught.value) + repr(Portal(stand_in.url, "wrong"))
    with pytest.raises(StoreError, match=r"Unable to add item\. Item type is not known\."):
        Portal(stand_in.url, "secret").share(dlpk, tmp_path, folder="nowhere")


def test_nobody_there_and_no_address_are_told(dlpk: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the portal did not answer"):
        Portal("http://127.0.0.1:9", "secret").share(dlpk, tmp_path)
    with pytest.raises(OptionsError, match="expected the address of a portal"):
        Portal("town", "secret").share(dlpk, tmp_path)


def test_the_command_takes_its_token_from_the_environment(stand_in: StandIn, told_of: Path) -> None:
    command = next(command for command in registry_commands if command.name == "share")
    done = CliRunner().invoke(command, [stand_in.url, str(told_of)], env={"DLPK_PORTAL_TOKEN": "secret"})
    assert ("i1", "Finds roofs") == (json.loads(done.output)["item"], json.loads(done.output)["snippet"])
    assert isinstance(CliRunner().invoke(command, [stand_in.url, str(told_of)]).exception, OptionsError)
