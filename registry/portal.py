"""Share a package as an item of ArcGIS Online or Enterprise: type *Deep Learning Package* (ArcGIS formats B.3).

Spoken is the portal's REST interface: the token's owner is asked for, the file added in one piece or in parts, the item
updated with what people read. It was tested against a stand-in that checks every field, not against ArcGIS itself.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from registry.arcgis_rest import ask
from registry.dlpk import Package, inspect, unpack
from registry.errors import OptionsError, StoreError

TYPE = "Deep Learning Package"
PART = 50 * 2**20  # bytes of a part; larger files go in several
PICTURES = ("loss_graph.png", "show_results.png", "confusion_matrix.png")
LONGEST_SUMMARY = 2048  # characters of a snippet
NEW_TOKEN = "make a new token of a user who may publish"  # noqa: S105  (a remedy)
PATIENCE = 300.0  # seconds for the portal to put the parts together


@dataclass(frozen=True)
class Portal:
    """A portal, e.g. https://town.maps.arcgis.com or https://gis.town.org/portal, and a token for it."""

    url: str
    token: str = field(repr=False)
    part_size: int = PART

    def share(self, dlpk: Path, work: Path, *, title: str = "", item: str = "", folder: str = "") -> dict[str, Any]:
        """Add the package as a new item, or as the new content of `item`; `work` is an empty folder to unpack it in.

        Title, summary, description and tags are those of its definition. Raises StoreError when the portal refuses.
        """
        package = inspect(dlpk)
        user = self._owner()
        place = f"content/users/{quote(user, safe='')}" + (f"/{quote(folder, safe='')}" if folder else "")
        item = quote(item, safe="")
        facts = {"title": title or package.name, **_texts(package)}
        if not item:
            item = self._add(place, dlpk, facts)
        else:
            self._replace(place, item, dlpk)
        self._update(place, item, facts, unpack(dlpk, work / "model").path)
        return {"item": item, "url": f"{self._root}/home/item.html?id={item}", "owner": user, **facts}

    @property
    def _root(self) -> str:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise OptionsError(
                "expected the address of a portal", got=self.url, do="write https://host or https://host/portal"
            )
        return self.url.rstrip("/").removesuffix("/home").removesuffix("/sharing/rest")

    def _owner(self) -> str:
        told = self._ask("community/self")
        if not (user := told.get("username")):
            raise StoreError("the token belongs to no user", where=self._root, do=NEW_TOKEN)
        return str(user)

    def _add(self, place: str, dlpk: Path, facts: Mapping[str, str]) -> str:
        head = {"type": TYPE, **facts}
        if dlpk.stat().st_size <= self.part_size:
            with dlpk.open("rb") as file:
                return str(self._ask(f"{place}/addItem", head, [("file", (dlpk.name, file, "application/zip"))])["id"])
        item = str(self._ask(f"{place}/addItem", {**head, "multipart": "true", "filename": dlpk.name})["id"])
        self._send_parts(place, item, dlpk)
        return item

    def _send_parts(self, place: str, item: str, dlpk: Path) -> None:
        for number, part in enumerate(_parts(dlpk, self.part_size), start=1):
            self._ask(
                f"{place}/items/{item}/addPart",
                {"partNum": str(number)},
                [("file", (dlpk.name, part, "application/zip"))],
            )
        self._ask(f"{place}/items/{item}/commit", {"type": TYPE})
        deadline = time.monotonic() + PATIENCE
        while (status := self._ask(f"{place}/items/{item}/status", {"jobType": "publish"})).get(
            "status"
        ) != "completed":
            if status.get("status") == "failed" or time.monotonic() > deadline:
                do = "delete the item in the portal and share again"
                raise StoreError("the portal did not put the parts together", where=self._root, got=status, do=do)
            time.sleep(0.5)

    def _replace(self, place: str, item: str, dlpk: Path) -> None:
        with dlpk.open("rb") as file:
            self._ask(f"{place}/items/{item}/update", {}, [("file", (dlpk.name, file, "application/zip"))])

    def _update(self, place: str, item: str, facts: Mapping[str, str], folder: Path) -> None:
        with ExitStack() as open_files:
            pictures = [folder / "ModelCharacteristics" / name for name in PICTURES]
            files = [
                ("screenshots", (path.name, open_files.enter_context(path.open("rb")), "image/png"))
                for path in pictures
                if path.is_file()
            ]
            self._ask(f"{place}/items/{item}/update", dict(facts), files)

    def _ask(self, path: str, data: Mapping[str, str] | None = None, files: Sequence[Any] = ()) -> dict[str, Any]:
        where = f"{self._root}/sharing/rest/{path}"
        return ask(where, data or {}, token=self.token, who="the portal", rights=NEW_TOKEN, files=files)


def _texts(package: Package) -> dict[str, str]:
    emd = package.emd
    summary = " ".join(str(emd.document.get("Summary") or "").split())[:LONGEST_SUMMARY]
    texts = {
        "snippet": summary,
        "description": str(emd.document.get("Description") or ""),
        "tags": ",".join(tag.replace(",", " ") for tag in emd.tags)
        or "deep learning",  # Enterprise before 11 wants one
        "typeKeywords": f"ModelType_{emd.model_type}",
    }
    return {key: text for key, text in texts.items() if text}


def _parts(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(size):
            yield part
