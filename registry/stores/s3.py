"""An S3 server as a store: `s3://bucket/prefix`, on AWS, Ceph, SeaweedFS or any other that speaks it.

Relied upon are multipart upload, range get and `If-None-Match: *` on a plain put. Servers differ in the last: a probe
tells once whether it is honoured, and where it is not, a look before each put takes its place and a warning says so.
"""

import base64
import hashlib
import logging
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError, ProfileNotFound

from registry.errors import Conflict, Denied, NotFound, OptionsError, StoreError
from registry.files import atomic, sha256
from registry.settings import settings
from registry.stores import check_key

PART = 16 * 2**20  # bytes in one part of a large upload; 4 of them are in memory
MOST_PARTS = 10_000  # of the protocol
PROBE = ".dlpk-conditional-put"
TAKEN = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")
REFUSED = ("AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken")


def connect(uri: str) -> "S3Store":
    """The bucket must exist. Nothing is asked of the server yet."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")  # a key may hold ? and #
    if not bucket:
        raise OptionsError("expected s3://bucket/prefix", where="store", got=uri)
    now = settings()
    config = Config(
        signature_version="s3v4",  # presigned addresses would still be signed the old way
        s3={"addressing_style": "path" if now.s3_endpoint else "auto"},
        retries={"mode": "standard", "total_max_attempts": 4},
        connect_timeout=4,
        read_timeout=60,
        request_checksum_calculation=now.s3_checksums,
        response_checksum_validation=now.s3_checksums,
    )
    try:
        session = boto3.session.Session()
        region = session.region_name or "us-east-1"
        client = session.client("s3", endpoint_url=now.s3_endpoint, region_name=region, config=config)
    except (BotoCoreError, ValueError) as error:
        raise StoreError(f"cannot be used ({error})", where=uri, do="correct the S3 settings") from error
    return S3Store(client, bucket, prefix.strip("/"), PART)


class S3Store:
    """See the contract in registry.stores."""

    def __init__(self, client: Any, bucket: str, prefix: str, part_size: int) -> None:
        self.client, self.bucket, self.part_size = client, bucket, part_size
        self.prefix = f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")

    def put(self, key: str, path: Path, digest: str = "") -> str:
        if path.stat().st_size <= self.part_size:
            content = path.read_bytes()
            if digest and hashlib.sha256(content).hexdigest() != digest:
                raise StoreError("the file changed while it was read", where=path, do="publish it again")
            return self.put_bytes(key, content)
        digest = digest or sha256(path)
        return self._put(key, digest, lambda: self._put_parts(key, path, digest))

    def put_bytes(self, key: str, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        content_at = {**self._at(key), "Body": content, "Metadata": {"sha256": digest}}
        return self._put(key, digest, lambda: self.client.put_object(**content_at, **self._condition))

    def replace(self, key: str, content: bytes) -> str:
        metadata = {"sha256": hashlib.sha256(content).hexdigest()}
        with self._told(key):
            self.client.put_object(**self._at(check_key(key)), Body=content, Metadata=metadata)
        return f"{self.uri}/{key}"

    def get(self, key: str, into: Path) -> Path:
        with atomic(into) as part, part.open("wb") as file:
            digest = hashlib.sha256()
            for piece in self._read(key):
                file.write(piece)
                digest.update(piece)
            self._check(key, digest.hexdigest())
        return into

    def get_bytes(self, key: str) -> bytes:
        content = b"".join(self._read(key))
        self._check(key, hashlib.sha256(content).hexdigest())
        return content

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if length <= 0:
            return b""
        with self._told(key):
            try:
                span = f"bytes={start}-{start + length - 1}"
                return bytes(self.client.get_object(**self._at(check_key(key)), Range=span)["Body"].read())
            except ClientError as error:
                if _code(error) in ("InvalidRange", "416"):
                    return b""  # behind the end
                raise

    def list(self, prefix: str = "") -> list[str]:
        keys = [key for key, _ in self.facts(prefix)]  # of other programs, too: "2026/" is how a console makes a folder
        return sorted(key for key in keys if all(name and not name.startswith(".") for name in key.split("/")))

    def facts(self, prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        """Every key with what the server tells of it in a listing: Size, ETag, LastModified."""
        with self._told(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield entry["Key"].removeprefix(self.prefix), entry

    def head(self, key: str) -> dict[str, Any] | None:
        """What the server tells of an object; None when there is none."""
        return self._head(key)

    def exists(self, key: str) -> bool:
        return self._head(key) is not None

    def delete(self, key: str) -> None:
        with self._told(key):
            self.client.delete_object(**self._at(check_key(key)))

    def sweep(self, older_than: timedelta = timedelta(days=1)) -> int:
        """End what killed uploads left on the server, once nobody can still be at it; how many there were."""
        with self._told(""):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self.prefix)
            uploads = [upload for page in pages for upload in page.get("Uploads", ())]
            stale = [upload for upload in uploads if datetime.now(UTC) - upload["Initiated"] >= older_than]
            for upload in stale:
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        return len(stale)

    # -- putting -----------------------------------------------------------------------------------------------------
    def _put(self, key: str, digest: str, send: Callable[[], object]) -> str:
        if (there := self._digest(check_key(key))) is None:
            with self._told(key):
                try:
                    send()
                except ClientError as error:
                    # NoSuchUpload: our completion went through and its answer was lost
                    if _code(error) not in (*TAKEN, "NoSuchUpload"):
                        raise
            there = self._digest(key)
        where = f"{self.uri}/{key}"
        if there is None:
            raise StoreError("another writer is at it", where=where, do="run the same command again")
        if there != digest:
            raise Conflict("holds other bytes", where=where, do="publish under another name; a store never overwrites")
        return where

    def _put_parts(self, key: str, path: Path, digest: str) -> None:
        """In parts; what a killed upload of the same bytes brought to the server stays there and is not sent again."""
        with suppress(StoreError):  # some keys may put but not list
            self.sweep()
        checksums = {"ChecksumAlgorithm": "CRC32"} if settings().s3_checksums == "when_supported" else {}
        begun = self._begun(key, checksums) if digest in key else ""  # such a key holds no other bytes
        if begun:
            try:
                return self._send(path, {**self._at(key), "UploadId": begun}, checksums, resume=True)
            except ClientError as error:  # a server that does not take up what it lists
                if _code(error) in (*TAKEN, "NoSuchUpload"):
                    raise
            with suppress(ClientError):
                self.client.abort_multipart_upload(**self._at(key), UploadId=begun)
        return self._send(path, {**self._at(key), "UploadId": self._begin(key, digest, checksums)}, checksums)

    def _send(self, path: Path, at: dict[str, str], checksums: dict[str, str], *, resume: bool = False) -> None:
        """The parts that the server has not got, then all of it becomes the object."""
        size = path.stat().st_size
        step = max(self.part_size, -(-size // MOST_PARTS))
        known = self._parts(at) if resume else {}

        def send(number: int) -> dict[str, Any]:
            with path.open("rb") as file:
                file.seek((number - 1) * step)
                body = file.read(step)
            part: dict[str, Any] = {"PartNumber": number, "ETag": known.get(number, "")}
            if part["ETag"].strip('"') == hashlib.md5(body, usedforsecurity=False).hexdigest():
                crc = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
                return part | ({"ChecksumCRC32": crc} if checksums else {})
            sent = self.client.upload_part(**at, PartNumber=number, Body=body, **checksums)
            return part | {name: sent[name] for name in ("ETag", "ChecksumCRC32") if name in sent}

        with ThreadPoolExecutor(4) as threads:
            parts = list(threads.map(send, range(1, -(-size // step) + 1)))
        try:
            self.client.complete_multipart_upload(**at, MultipartUpload={"Parts": parts}, **self._condition)
        except ClientError as error:
            if _code(error) in TAKEN:
                with suppress(ClientError, BotoCoreError):
                    self.client.abort_multipart_upload(**at)
            raise

    def _begin(self, key: str, digest: str, checksums: dict[str, str]) -> str:
        started = self.client.create_multipart_upload(**self._at(key), Metadata={"sha256": digest}, **checksums)
        return str(started["UploadId"])

    def _begun(self, key: str, checksums: dict[str, str]) -> str:
        """The last upload of this key that did not end; "" when there is none, or none may be asked for."""
        wanted = checksums.get("ChecksumAlgorithm")
        with suppress(ClientError):
            uploads = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=self.prefix + key)
            mine = [one for one in uploads.get("Uploads", ()) if one["Key"] == self.prefix + key]
            alike = [one for one in mine if one.get("ChecksumAlgorithm", wanted) == wanted]
            if alike:
                return str(max(alike, key=lambda one: one["Initiated"])["UploadId"])
        return ""

    def _parts(self, at: dict[str, str]) -> dict[int, str]:
        """What the server has of an upload: number -> ETag."""
        pages = self.client.get_paginator("list_parts").paginate(**at)
        return {part["PartNumber"]: part["ETag"] for page in pages for part in page.get("Parts", ())}

    @cached_property
    def _condition(self) -> dict[str, str]:
        """What makes a put fail where something is; {} on a server that does not know it."""
        condition = {"IfNoneMatch": "*"}
        for _ in range(2):  # a new store takes the first, and none that is honest takes the second
            try:
                self.client.put_object(**self._at(PROBE), Body=b"", **condition)
            except ClientError as error:
                if _code(error) in TAKEN:
                    return condition
                if _code(error) not in ("NotImplemented", "501", "InvalidArgument", "InvalidRequest"):
                    raise
                break
        text = "%s does not honour If-None-Match: two writers of one key at the same moment may both seem to win"
        logging.getLogger(__name__).warning(text, self.uri)
        return {}

    # -- getting -----------------------------------------------------------------------------------------------------
    def _read(self, key: str) -> Iterator[bytes]:
        """The bytes of an object; a connection that breaks is taken up again where it broke."""
        done, patience = 0, 4
        while True:
            with self._told(key):
                body = self.client.get_object(**self._at(key), **({"Range": f"bytes={done}-"} if done else {}))["Body"]
                try:
                    for piece in body.iter_chunks(2**20):
                        yield piece
                        done += len(piece)
                except BotoCoreError:
                    patience -= 1
                    if not patience:
                        raise
                else:
                    return

    def _check(self, key: str, digest: str) -> None:
        told = (self._head(key) or {}).get("Metadata", {}).get("sha256", digest)
        if told != digest:
            do = "the object is damaged: remove it and publish again"
            raise StoreError(f"expected the sha256 {told}", where=f"{self.uri}/{key}", got=digest, do=do)

    def _digest(self, key: str) -> str | None:
        """The sha256 of what is there, None when nothing is."""
        if (head := self._head(key)) is None:
            return None
        if told := head.get("Metadata", {}).get("sha256"):
            return str(told)
        digest = hashlib.sha256()  # another program put it, or the server drops metadata
        for piece in self._read(key):
            digest.update(piece)
        return digest.hexdigest()

    def _head(self, key: str) -> dict[str, Any] | None:
        with self._told(key):
            try:
                return dict(self.client.head_object(**self._at(key)))
            except ClientError as error:
                if _code(error) not in ("404", "NoSuchKey", "NotFound"):
                    raise
            try:  # an answer without a body cannot tell a missing key from a missing bucket
                self.client.head_bucket(Bucket=self.bucket)
            except ClientError as error:
                if _code(error) in ("404", "NoSuchBucket"):
                    raise self._no_bucket() from error
                if _code(error) not in REFUSED:  # a key may be allowed to read objects only
                    raise
        return None

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + key}

    def _no_bucket(self) -> StoreError:
        do = "create it, or correct the address; that of packages is DLPK_STORE"
        return Denied("there is no such bucket", where=f"s3://{self.bucket}", do=do)

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        where = f"{self.uri}/{key}"
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
            do = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            raise StoreError(f"no credentials ({error})", where=where, do=do) from error
        except ClientError as error:
            raise self._named(error, where) from error
        except BotoCoreError as error:
            do = "check that the server runs and that DLPK_S3_ENDPOINT_URL is its address"
            raise StoreError(f"the server did not answer ({error})", where=where, do=do) from error

    def _named(self, error: ClientError, where: str) -> StoreError | NotFound:
        code = _code(error)
        if code == "NoSuchBucket":
            return self._no_bucket()
        if code in ("NoSuchKey", "404"):
            return NotFound("no such object", where=where)
        if code in REFUSED:
            do = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the rights on the bucket"
            return Denied(f"the server refused the credentials ({code})", where=where, do=do)
        return StoreError(f"the server failed ({error})", where=where, do="run the same command again")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
