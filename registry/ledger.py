"""Who has done which scene with which model version: kept in the store of the results, shared by any number of workers.

    ledger/owners/<owner>/<beat>               a worker lives as long as its beat counts on
    ledger/<model>/claims/<entry>/<attempt>    who is at a scene; one attempt, one worker; ...-free: no longer
    ledger/<model>/failures/<entry>/<owner>    why an attempt gave nothing
    ledger/<model>/done/<entry>                its result is there
    <item>/item.json                           the result: whoever puts this first has done the scene

An entry is `<16 digits of scene id and content>-<12 digits of the package's sha256>`. Everything is an object that is
put once and never changed, which every store can promise (docs/decisions/0008-ledger.md): a claim only saves work, and
the item decides, so no kill, pause or clock can make a scene count twice or not at all.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from registry.errors import Conflict, NotFound, StoreError
from registry.scenes import Scene
from registry.stores import Store

LEASE = 60.0  # seconds without a beat after which a worker's claims are free
BEATS = 4  # in a lease
FORGOTTEN = 20  # leases of silence after which nothing is kept of a worker
FREE = "-free"


@dataclass(frozen=True)
class Entry:
    """One scene for one version of a model."""

    scene: Scene
    model: str
    version: str
    sha256: str

    @property
    def key(self) -> str:
        return f"{self.scene.key}-{self.sha256[:12]}"

    @property
    def item(self) -> str:
        """Of its STAC item and of the folder of its results."""
        return f"{self.model}-{self.scene.name}-{self.key}"


@dataclass(frozen=True)
class Claim:
    """The right to try."""

    entry: Entry
    attempt: str  # "0001", "0002", ...
    owner: str

    @property
    def folder(self) -> str:
        """Of what this attempt makes, and no other one."""
        return f"{self.entry.item}/{self.attempt}-{self.owner.rpartition('-')[2]}"


class Owner:
    """This process, among those that share a store. It beats in a thread while the block of `alive` runs."""

    def __init__(self, store: Store, lease: float = LEASE) -> None:
        self.store, self.lease = store, lease
        self.name = f"{socket.gethostname().replace('.', '-')}-{os.getpid()}-{secrets.token_hex(4)}"
        self._number = 0
        self._seen: dict[str, tuple[str, float]] = {}  # owner -> its last beat, and when we first saw that one

    @contextmanager
    def alive(self) -> Iterator["Owner"]:
        """Afterwards its claims are free at once."""
        self.beat()
        stop = threading.Event()
        thread = threading.Thread(target=self._beat_on, args=(stop,), name="beat", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()
            with suppress(StoreError):
                self.forget(self.name)

    def beat(self) -> None:
        """The new one first: somebody who looks always finds one."""
        self.store.put_bytes(self._key(self._number + 1), b"")
        self._number += 1
        if self._number > 1:
            self.store.delete(self._key(self._number - 1))

    def living(self) -> set[str]:
        """Who has beaten within the last lease, by our own clock: those of other machines may be wrong."""
        now, last = time.monotonic(), dict(key.split("/")[2:4] for key in self.store.list("ledger/owners/"))
        self._seen = {o: s if (s := self._seen.get(o)) and s[0] == beat else (beat, now) for o, beat in last.items()}
        for owner, (_, since) in self._seen.items():
            if now - since > FORGOTTEN * self.lease:
                self.forget(owner)
        return {owner for owner, (_, since) in self._seen.items() if now - since < self.lease}

    def forget(self, owner: str) -> None:
        for key in self.store.list(f"ledger/owners/{owner}/"):
            self.store.delete(key)

    def _key(self, number: int) -> str:
        return f"ledger/owners/{self.name}/{number:08d}"

    def _beat_on(self, stop: threading.Event) -> None:
        while not stop.wait(self.lease / BEATS):
            with suppress(StoreError):  # silent for longer than a lease, others take over: nothing breaks
                self.beat()


class Ledger:
    """The book of one model."""

    def __init__(self, owner: Owner, model: str) -> None:
        self.owner, self.store = owner, owner.store
        self._place = f"ledger/{model}"
        self._holders: dict[str, str] = {}  # key of a claim -> owner; a claim never changes

    def done(self) -> set[str]:
        """The keys of all entries that have a result, of every version."""
        return self._names("done")

    def failures(self) -> Counter[str]:
        """How often each entry failed."""
        return Counter(key.split("/")[3] for key in self.store.list(f"{self._place}/failures/"))

    def claims(self) -> dict[str, str]:
        """The last attempt at each entry that is not done."""
        return {key.split("/")[3]: key.split("/")[4] for key in self.store.list(f"{self._place}/claims/")}

    def claim(self, entry: Entry, last: str | None, living: set[str]) -> Claim | None:
        """Take an entry whose last attempt is `last`; None where somebody living has it, or it is done."""
        if last and not last.endswith(FREE) and self._holder(entry, last) in living:
            return None
        attempt = f"{int((last or '0').removesuffix(FREE)) + 1:04d}"
        facts = {"owner": self.owner.name, "scene": entry.scene.id, "at": datetime.now(UTC).isoformat()}
        try:
            self.store.put_bytes(self._claim(entry, attempt), json.dumps(facts).encode())
        except Conflict:
            return None
        if self.store.exists(f"{entry.item}/item.json"):  # whoever did it may have tidied up before our claim
            self.finish(entry)
            return None
        return Claim(entry, attempt, self.owner.name)

    def finish(self, entry: Entry) -> None:
        """Write down that the result is there, and forget who was at it."""
        self.store.put_bytes(f"{self._place}/done/{entry.key}", b"")
        self._drop(entry, "claims")
        self._drop(entry, "failures")

    def give_back(self, claim: Claim) -> None:
        """It was not tried, or in vain: anybody may."""
        self.store.put_bytes(f"{self._claim(claim.entry, claim.attempt)}{FREE}", b"")

    def fail(self, claim: Claim, why: str) -> None:
        """An attempt gave nothing; the entry is free again."""
        facts = {"scene": claim.entry.scene.id, "why": why, "at": datetime.now(UTC).isoformat()}
        name = f"{claim.attempt}-{self.owner.name}"
        self.store.put_bytes(f"{self._place}/failures/{claim.entry.key}/{name}", json.dumps(facts).encode())
        self.give_back(claim)

    def reasons(self, entry: Entry) -> list[str]:
        """Why its attempts failed."""
        keys = self.store.list(f"{self._place}/failures/{entry.key}/")
        return [str(json.loads(self.store.get_bytes(key))["why"]) for key in keys]

    def _holder(self, entry: Entry, attempt: str) -> str:
        key = self._claim(entry, attempt)
        if key not in self._holders:
            try:
                self._holders[key] = str(json.loads(self.store.get_bytes(key))["owner"])
            except NotFound:
                return ""  # finished or given back meanwhile
        return self._holders[key]

    def _claim(self, entry: Entry, attempt: str) -> str:
        return f"{self._place}/claims/{entry.key}/{attempt}"

    def _drop(self, entry: Entry, kind: str) -> None:
        for key in self.store.list(f"{self._place}/{kind}/{entry.key}/"):
            self.store.delete(key)

    def _names(self, kind: str) -> set[str]:
        return {key.split("/")[3] for key in self.store.list(f"{self._place}/{kind}/")}
