"""An S3 prefix as a source: single photographs, packs of them (tar, zip), or both. Works with MinIO and Ceph too.

Credentials are found as by other AWS tools: environment, profile, or the machine's role. Single photographs form packs
of `images_per_shard` in the order of their keys. An archive is one pack and is fetched in parallel parts, none of them
twice.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from sohes.data.sources import unpack
from sohes.data.sources.source import (
    IDS_PER_PACK,
    Member,
    Pack,
    Plan,
    held_out_by_name,
    is_photograph,
    is_visible,
    read_digests,
)
from sohes.data.sources.transfer import PATIENCE, Patience, TransferFailed, check_disk, checked, persist
from sohes.data.store.decode import UnreadableImage
from sohes.errors import SohesError, TemporaryError, first_sentence
from sohes.masks.mask_json import Remarks
from sohes.work.pool import plan_shards

PART_BYTES = 16 * 2**20
CONNECTIONS = 8


@dataclass(frozen=True)
class S3Object:
    """One object in the listing."""

    key: str
    etag: str
    size: int


@dataclass(frozen=True)
class S3Source:
    """`uri`: s3://bucket/prefix. `endpoint_url`: for services other than AWS; None: use AWS_ENDPOINT_URL."""

    uri: str
    endpoint_url: str | None
    requester_pays: bool
    eval_fraction: float
    images_per_shard: int
    digests: Path | None
    patience: Patience = PATIENCE

    # ---------------------------------------------------------------- plan

    def plan(self) -> Plan:
        found = sorted(self._list(), key=lambda item: item.key)
        below = len(self._place()[1])
        archives = [
            item for item in found if item.key.lower().endswith(unpack.SUFFIXES) and is_visible(item.key[below:])
        ]
        loose = [item for item in found if is_photograph(item.key[below:])]
        digests = read_digests(self.digests, [item.key for item in archives])
        packs = [
            Pack(index, item.key, f"{item.etag} {item.size}", item.size, digest=digests.get(item.key))
            for index, item in enumerate(archives)
        ]
        for number, group in enumerate(plan_shards(loose, self.images_per_shard)):
            size = sum(item.size for item in group)
            packs.append(Pack(len(packs), f"photographs-{number:05d}", _stamp(group), size, objects=tuple(group)))
        if not packs:
            raise SohesError(f"there are no photographs and no archives under {self.uri}: fix pull.s3.uri")
        others = len(found) - len(archives) - len(loose)
        notes = (f"{self.uri}: {others} objects left out (neither photographs nor archives)",) if others else ()
        return Plan((), (), True, notes, tuple(packs))

    def _list(self) -> list[S3Object]:
        bucket, prefix = self._place()
        client = self._client()

        def pages() -> list[S3Object]:
            listed = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **self._payer())
            items = [item for page in listed for item in page.get("Contents", []) if not item["Key"].endswith("/")]
            return [S3Object(item["Key"], item["ETag"].strip('"'), item["Size"]) for item in items]

        return persist(lambda: _translated(pages, self.uri), self.uri, self.patience)

    def _place(self) -> tuple[str, str]:
        """The bucket and the prefix, in which every character is itself."""
        bucket, _, prefix = self.uri.removeprefix("s3://").partition("/")
        if not self.uri.startswith("s3://") or not bucket:
            raise SohesError(f"pull.s3.uri must look like s3://bucket/prefix (got {self.uri})")
        return bucket, prefix.lstrip("/")

    def _client(self) -> Any:
        from botocore.exceptions import BotoCoreError

        try:
            return _client(self.endpoint_url, self.patience.timeout)
        except (BotoCoreError, ValueError) as error:  # ValueError: an address that is none
            remedy = "fix pull.s3.endpoint_url or the AWS settings (environment, ~/.aws)"
            raise SohesError(f"{self.uri}: {first_sentence(error)}: {remedy}") from None

    def _payer(self) -> dict[str, str]:
        return {"RequestPayer": "requester"} if self.requester_pays else {}

    # ---------------------------------------------------------------- packs

    def fetch(self, pack: Pack, folder: Path) -> str:
        if pack.objects:
            return f"sha256:{hashlib.sha256(pack.stamp.encode()).hexdigest()}"
        path = folder / _local_name(pack)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock")):
            what = f"{pack.name} of {self.uri}"
            twice = replace(self.patience, attempts=2)
            return checked(
                lambda: persist(lambda: self._fetch_object(pack, path), what, twice), path, pack.digest, what
            )

    def _fetch_object(self, pack: Pack, path: Path) -> None:
        """Fetch the object in ranges. Each is written to its place and then noted, so that another run skips it."""
        check_disk(path.parent, 2 * pack.size, pack.name)
        client, (bucket, _) = self._client(), self._place()
        etag = pack.stamp.partition(" ")[0]
        wanted = {"Bucket": bucket, "Key": pack.name, "IfMatch": f'"{etag}"', **self._payer()}
        part, note = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.parts")
        heading = json.dumps([pack.stamp, PART_BYTES])
        lines = note.read_text().splitlines() if note.exists() and part.exists() else []
        if not lines or lines[0] != heading:
            part.write_bytes(b"")
            note.write_text(f"{heading}\n")
        os.truncate(part, pack.size)
        done = {int(line) for line in lines[1:] if line.isdecimal()}
        with part.open("r+b") as file, note.open("a") as noted:

            def bring(start: int) -> None:
                end = min(start + PART_BYTES, pack.size)
                data = self._get(client, {**wanted, "Range": f"bytes={start}-{end - 1}"}, end - start)
                os.pwrite(file.fileno(), data, start)
                noted.write(f"{start}\n")
                noted.flush()

            missing = [start for start in range(0, pack.size, PART_BYTES) if start not in done]
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                try:
                    list(pool.map(bring, missing))
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        self._check(client, wanted, part, etag)
        part.replace(path)
        note.unlink()

    def _check(self, client: Any, wanted: dict[str, str], part: Path, etag: str) -> None:
        """Compare with the checksums of the whole object that the service has; remove the file if one differs."""

        def head() -> dict[str, Any]:
            return client.head_object(**wanted, ChecksumMode="ENABLED")

        said = persist(lambda: _translated(head, self.uri), self.uri, self.patience)
        whole = said.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
        sha256, crc32 = hashlib.sha256(), 0
        md5 = hashlib.md5(usedforsecurity=False)
        with part.open("rb") as file:
            while chunk := file.read(2**20):
                sha256.update(chunk)
                md5.update(chunk)
                crc32 = zlib.crc32(chunk, crc32)
        ours = {
            "ChecksumSHA256": base64.b64encode(sha256.digest()).decode(),
            "ChecksumCRC32": base64.b64encode(crc32.to_bytes(4)).decode(),
        }
        pairs = [(said.get(name), value) for name, value in ours.items() if whole]
        # The ETag of encrypted or multi-part objects is not an MD5: it has a dash, or KMS is named.
        if len(etag) == 32 and not said.get("ServerSideEncryption", "").startswith("aws:kms"):
            pairs.append((etag, md5.hexdigest()))
        if any(theirs is not None and theirs != mine for theirs, mine in pairs):
            part.unlink()
            raise TransferFailed("it has a wrong checksum")

    def _get(self, client: Any, wanted: dict[str, str], size: int) -> bytes:
        """The bytes of an object, or of a range of it."""

        def read() -> bytes:
            with contextlib.closing(client.get_object(**wanted)["Body"]) as body:
                data = body.read()
            if len(data) != size:
                raise TransferFailed(f"only {len(data)} of {size} bytes arrived")
            return data

        what = f"{wanted['Key']} of {self.uri}"
        return persist(lambda: _translated(read, what), what, self.patience)

    def members(self, pack: Pack, folder: Path, *, held_out: bool, remarks: Remarks | None = None) -> Iterator[Member]:
        del remarks  # there are no annotations
        if pack.objects:
            yield from self._objects(pack, held_out)
            return

        def wanted(name: str) -> bool:
            chosen = held_out_by_name(f"{pack.name}/{name}", self.eval_fraction) == held_out
            return chosen and is_photograph(name)

        for number, name, data in unpack.iter_numbered(folder / _local_name(pack), wanted):
            yield Member(pack.index * IDS_PER_PACK + number, f"{pack.name}/{name}", data)

    def _objects(self, pack: Pack, held_out: bool) -> Iterator[Member]:
        client, (bucket, _) = self._client(), self._place()
        chosen = [
            (number, item)
            for number, item in enumerate(pack.objects, 1)
            if held_out_by_name(item.key, self.eval_fraction) == held_out
        ]

        def bring(item: S3Object) -> bytes | UnreadableImage:
            if item.size > unpack.MAX_MEMBER_BYTES:
                return UnreadableImage(f"the object has {item.size / 2**20:.0f} MiB, more than an image needs")
            wanted = {"Bucket": bucket, "Key": item.key, "IfMatch": f'"{item.etag}"', **self._payer()}
            return self._get(client, wanted, item.size)

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for start in range(0, len(chosen), CONNECTIONS):  # bounds what is in memory
                window = chosen[start : start + CONNECTIONS]
                for (number, item), data in zip(window, pool.map(bring, [item for _, item in window]), strict=True):
                    yield Member(pack.index * IDS_PER_PACK + number, item.key, data)


@functools.lru_cache(maxsize=4)
def _client(endpoint_url: str | None, timeout: float) -> Any:
    """One client per process: creating it is slower than most requests, and threads can share it."""
    import boto3  # takes a second to import, and only this source needs it
    from botocore.config import Config

    config = Config(
        connect_timeout=timeout,
        read_timeout=timeout,
        max_pool_connections=CONNECTIONS,
        retries={"total_max_attempts": 1},  # `persist` retries, for headers and bodies alike
    )
    return boto3.Session().client("s3", endpoint_url=endpoint_url, config=config)


def _stamp(group: Sequence[S3Object]) -> str:
    text = json.dumps([[item.key, item.etag, item.size] for item in group])
    return hashlib.sha256(text.encode()).hexdigest()


def _local_name(pack: Pack) -> str:
    return f"pack-{pack.index:05d}"


def _translated(work: Callable[[], Any], what: str) -> Any:
    """Run one request. TransferFailed for errors that a retry may fix, SohesError for all others."""
    from botocore import exceptions as aws
    from urllib3.exceptions import HTTPError

    try:
        return work()
    except aws.ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = error.response.get("Error", {}).get("Code", "")
        if status >= 500 or status == 429 or code in ("SlowDown", "RequestTimeout"):
            raise TransferFailed(f"the server answers {status} {code}") from None
        refused = f"{what} was refused ({status} {code})"
        if status == 412:
            raise TemporaryError(f"{refused}: it has changed since it was listed: run the same command again") from None
        raise SohesError(f"{refused}: check the address, the credentials and the permissions") from None
    except (aws.NoCredentialsError, aws.ProfileNotFound, aws.PartialCredentialsError) as error:
        raise SohesError(f"{what}: {error}: set up AWS credentials (environment, profile or role)") from None
    except (aws.HTTPClientError, aws.IncompleteReadError, HTTPError, ConnectionError) as error:
        raise TransferFailed(f"the connection failed ({type(error).__name__})") from None
    except aws.BotoCoreError as error:
        raise SohesError(f"{what}: {error}") from None
