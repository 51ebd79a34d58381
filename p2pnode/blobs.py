"""Bytes by content address on this node's disk: payloads, the corpus, and snapshots of the agreed model.

A blob is a file named by its digest; a model is served under its root like any other blob, from memory where it is new, else from the
newest snapshots.

Rules for editing: methods block and are called off the event loop. A file appears under its name only when it is whole. ``make_durable``
is separate from ``put``, because a payload must survive a crash only from the moment that a vote counts on it.
"""

import re
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from errno import ENOSPC
from io import SEEK_END
from pathlib import Path

import trio

from model.errors import SnapshotError
from model.replica import Replica
from model.snapshot import read_metadata
from p2pnode.arriving import Arriving, begun
from p2pnode.files import FILES, sync_at
from transport import content
from transport.limits import LEAF_BYTES
from transport.machine import in_thread

MODELS_KEPT = 4  # the agreed model, the one before it, a candidate, and a snapshot that a joiner reads
NEWEST_BYTES_MAX = 32 << 20  # one round of 32 members with a million parameters; larger payloads are read from the disk
SERVING_THREADS_MAX = 8  # of the forty: however many peers read, our own writes do not wait for a thread behind them
LEAF_LISTS_KEPT = 32  # 32 bytes a leaf: 2 KiB for a model of a million parameters, 16 MiB for one of eight billion


_NAME = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """The blobs of one home. ``Served`` lends them to the transport."""

    def __init__(self, directory: Path, snapshots: Path) -> None:
        self._directory = directory
        self._snapshots = snapshots
        directory.mkdir(mode=0o700, exist_ok=True)
        snapshots.mkdir(mode=0o700, exist_ok=True)
        for torn in directory.glob("*/*.part"):
            torn.unlink()  # a write that a crash cut short
        self._lock = threading.Lock()
        self._leaf_lists: OrderedDict[bytes, list[bytes]] = OrderedDict()
        self._hashing: dict[bytes, threading.Lock] = {}
        self._models: OrderedDict[bytes, Replica] = OrderedDict()
        self._written: set[bytes] = set()  # whole under their names, by this process
        self._durable: set[bytes] = set()
        self._files = FILES.get()
        self._newest: OrderedDict[bytes, bytes] = OrderedDict()

    # --- blobs -------------------------------------------------------------------------------------------------------------------

    def put(self, data: bytes, digest: bytes | None = None) -> bytes:
        """Keep bytes under their digest (computed unless the caller has verified it). Returns the digest."""
        if digest is None:
            hashes = content.leaf_hashes(content.split(data))
            digest = content.digest_of_hashes(hashes, len(data))
            self._remember_leaves(digest, hashes)
        self._keep_in_memory(digest, data)
        path = self._path(digest)
        # A file of an earlier life may have its name and not its bytes, where the power went in between: it is written again.
        if digest not in self._written or not path.exists():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self._write(path.with_suffix(f".{threading.get_native_id()}.part"), path, data)
            self._written.add(digest)
        return digest

    def _write(self, part: Path, path: Path, data: bytes) -> None:
        files = self._files
        try:
            descriptor = files.create(part)
            try:
                files.write(descriptor, data, offset=0)
            finally:
                files.close(descriptor)
            files.rename(part, path)
        except OSError:
            files.remove(part)  # on a full disk, half a blob is in the way
            raise

    def get(self, digest: bytes) -> bytes | None:
        """The bytes, checked against their digest; a damaged file is dropped and counts as absent."""
        try:
            data = self._path(digest).read_bytes()
        except OSError:
            return None
        if content.digest_of(data) != digest:
            self.drop(digest)
            return None
        return data

    def put_chunks(self, chunks: Iterable[bytes | memoryview]) -> tuple[bytes, int]:
        """Keep bytes of any length, given piece by piece: their digest, and how many they are. Durable; whole or not at all.

        What ``chunks`` raises goes on to the caller. Raises OSError.
        """
        files, leaves = self._files, _Leaves()
        directory = self._directory / "00"
        directory.mkdir(mode=0o700, exist_ok=True)
        part = directory / f"{threading.get_native_id()}.new.part"
        descriptor = files.create(part)
        try:
            try:
                for chunk in chunks:
                    files.write(descriptor, chunk, offset=leaves.length)
                    leaves.add(chunk)
            finally:
                files.close(descriptor)
            digest = leaves.digest()
            self._move_in(part, digest, leaves.hashes)
        except BaseException:
            files.remove(part)
            raise
        self.make_durable([digest])
        return digest, leaves.length

    @staticmethod
    def digest_of_chunks(chunks: Iterable[bytes]) -> bytes:
        """What ``put_chunks`` would keep them under."""
        leaves = _Leaves()
        for chunk in chunks:
            leaves.add(chunk)
        return leaves.digest()

    def checked_file(self, digest: bytes) -> Path | None:
        """The file of a blob, read once by this process and found to be what its name says; else it is dropped, and absent."""
        path = self._path(digest)
        return path if path.exists() and self.leaf_hashes(digest) is not None else None

    def arriving_blob(self, digest: bytes, length: int) -> Arriving:
        """A blob that every node keeps, on its way to this disk."""
        return Arriving(self._directory, digest, length)

    def adopt(self, arrived: Arriving) -> None:
        """It is whole: from now on it stands under its name. Raises OSError."""
        arrived.close()
        self._move_in(arrived.path, arrived.digest, None)
        self.make_durable([arrived.digest])

    def check_room(self, size: int) -> None:
        """Raises OSError where the disk has fewer bytes free."""
        free = shutil.disk_usage(self._directory).free
        if size > free:
            raise OSError(ENOSPC, f"{size} more bytes are needed on this disk, and {free} are free")

    def _move_in(self, part: Path, digest: bytes, hashes: list[bytes] | None) -> None:
        path = self._path(digest)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._files.rename(part, path)
        self._written.add(digest)
        if hashes is not None:
            self._remember_leaves(digest, hashes)

    def holds(self, digest: bytes) -> bool:
        """Whether ``get`` would find a file. One question to the system: short enough for the event loop."""
        return self._path(digest).exists()

    def make_durable(self, digests: Sequence[bytes]) -> None:
        """Return when these blobs survive a loss of power."""
        fresh = [digest for digest in digests if digest not in self._durable]
        directories = {self._path(digest).parent for digest in fresh}
        for path in [*(self._path(digest) for digest in fresh), *directories, *([self._directory] if fresh else [])]:
            sync_at(self._files, path)
        self._durable.update(fresh)

    def put_durably(self, data: bytes) -> bytes:
        """Both, where nothing can be done in between."""
        digest = self.put(data)
        self.make_durable([digest])
        return digest

    def is_durable(self, digest: bytes) -> bool:
        """Whether ``make_durable`` has returned for it and it is still there. Short enough for the event loop."""
        return digest in self._durable and self.holds(digest)

    def listed(self) -> set[bytes]:
        """The digests of all files here."""
        return {bytes.fromhex(path.name) for path in self._directory.glob("*/*") if _NAME.fullmatch(path.name)}

    def drop(self, digest: bytes) -> None:
        self._path(digest).unlink(missing_ok=True)
        self._durable.discard(digest)
        self._written.discard(digest)
        with self._lock:
            self._leaf_lists.pop(digest, None)
            self._newest.pop(digest, None)

    # --- models ------------------------------------------------------------------------------------------------------------------

    def model_root(self, replica: Replica) -> bytes:
        """The root of a model: the content digest of its canonical bytes. The model is served under it from now on."""
        hashes = content.leaf_hashes(replica.leaves())
        root = content.digest_of_hashes(hashes, replica.byte_length)
        self._remember_leaves(root, hashes)
        self.keep_model(root, replica)
        return root

    def put_snapshot(self, height: int, root: bytes, replica: Replica, *, keep: int) -> None:
        """Write the model of a height whole; the oldest beyond ``keep`` go."""
        replica.save(self._snapshots / f"{height:012d}.safetensors", {"height": str(height), "model_root": root.hex()})
        for _, path in self._snapshot_files()[keep:]:
            path.unlink(missing_ok=True)

    def snapshots(self) -> list[tuple[int, bytes]]:
        """(height, model root) of the snapshots on disk, newest first, as their own headers claim."""
        found = []
        for height, path in self._snapshot_files():
            try:
                found.append((height, bytes.fromhex(read_metadata(path)["model_root"])))
            except (SnapshotError, KeyError, ValueError):
                continue  # not one of ours, or damaged: it is replaced in due time
        return found

    def snapshot_path(self, height: int) -> Path:
        return self._snapshots / f"{height:012d}.safetensors"

    def _snapshot_files(self) -> list[tuple[int, Path]]:
        """Newest first."""
        files = [path for path in self._snapshots.glob("*.safetensors") if path.stem.isdecimal()]
        return sorted(((int(path.stem), path) for path in files), reverse=True)

    def arriving(self, digest: bytes, length: int) -> Arriving:
        """A model on its way to this disk."""
        return Arriving(self._snapshots, digest, length)

    def arriving_begun(self) -> set[bytes]:
        """The roots of models that an earlier attempt has begun to fetch."""
        return begun(self._snapshots)

    # --- what peers are served -----------------------------------------------------------------------------------------------------

    def at_hand(self, digest: bytes, offset: int, size: int) -> memoryview | None:
        """The same as ``read`` for what is in memory: a blob that has just been put, or a model. Does not block, does not copy."""
        with self._lock:
            newest, replica = self._newest.get(digest), self._models.get(digest)
        if newest is not None:
            return memoryview(newest)[offset : offset + size]
        return None if replica is None else replica.view(offset, size)

    def known_leaf_hashes(self, digest: bytes) -> list[bytes] | None:
        """The hashes of a blob's leaves, if they are in memory. Does not block."""
        with self._lock:
            return self._leaf_lists.get(digest)

    def leaf_hashes(self, digest: bytes) -> list[bytes] | None:
        """The hashes of a blob's leaves; computed from the bytes once and remembered. Damaged bytes count as absent: they would make
        this node a liar."""
        known = self.known_leaf_hashes(digest)
        if known is not None:
            return known
        with self._lock:
            hashing = self._hashing.setdefault(digest, threading.Lock())
        try:
            with hashing:  # of two who want those of a large text, the second waits for the first
                return self.known_leaf_hashes(digest) or self._hash_leaves(digest)
        finally:
            with self._lock:
                self._hashing.pop(digest, None)

    def _hash_leaves(self, digest: bytes) -> list[bytes] | None:
        hashes: list[bytes] = []
        length = 0
        while leaf := self.read(digest, length, LEAF_BYTES):
            hashes.append(content.leaf_hash(leaf))
            length += len(leaf)
        if content.digest_of_hashes(hashes, length) != digest:
            self.drop(digest)
            return None
        self._remember_leaves(digest, hashes)
        return hashes

    def read(self, digest: bytes, offset: int, size: int) -> bytes | None:
        """``size`` bytes from ``offset`` (fewer at the end), or ``None`` when the blob is not here."""
        try:
            with self._path(digest).open("rb") as file:
                if offset >= file.seek(0, SEEK_END):
                    return b""  # a stranger's offset may be one that no file can have, and seeking there fails
                file.seek(offset)
                return file.read(size)
        except FileNotFoundError:
            replica = self._model(digest)
            return replica.read(offset, size) if replica is not None else None

    def _model(self, root: bytes) -> Replica | None:
        """A model that is held in memory, or that a snapshot on disk says to be; the reader verifies each leaf anyway."""
        with self._lock:
            replica = self._models.get(root)
        if replica is not None:
            return replica
        for height, claimed in self.snapshots():
            if claimed == root:
                try:
                    replica = Replica.load(self.snapshot_path(height))
                except (SnapshotError, OSError):
                    continue  # damaged, or a newer one has just taken its place
                self.keep_model(root, replica)
                return replica
        return None

    def keep_model(self, root: bytes, replica: Replica) -> None:
        """Serve this model under its root, and longer than those that were kept before."""
        with self._lock:
            self._models[root] = replica
            self._models.move_to_end(root)
            while len(self._models) > MODELS_KEPT:
                self._models.popitem(last=False)

    def _keep_in_memory(self, digest: bytes, data: bytes) -> None:
        """What is new is what peers ask for; the round holds the same bytes anyway."""
        with self._lock:
            self._newest[digest] = data
            while sum(map(len, self._newest.values())) > NEWEST_BYTES_MAX:
                self._newest.popitem(last=False)

    def _remember_leaves(self, digest: bytes, hashes: list[bytes]) -> None:
        with self._lock:
            self._leaf_lists[digest] = hashes
            self._leaf_lists.move_to_end(digest)
            others = [known for known in self._leaf_lists if known not in self._models]
            for oldest in others[
                : max(0, len(others) - LEAF_LISTS_KEPT)
            ]:  # a model's list stays for as long as the model
                del self._leaf_lists[oldest]

    def _path(self, digest: bytes) -> Path:
        return blob_path(self._directory, digest)


def blob_path(directory: Path, digest: bytes) -> Path:
    """Where a blob lies in a home's directory of them."""
    name = digest.hex()
    return directory / name[:2] / name


class _Leaves:
    """The leaves of bytes that come in pieces of any size."""

    def __init__(self) -> None:
        self.hashes: list[bytes] = []
        self.length = 0
        self._rest = bytearray()

    def add(self, chunk: bytes | memoryview) -> None:
        self.length += len(chunk)
        self._rest += chunk
        whole = len(self._rest) // LEAF_BYTES * LEAF_BYTES
        if whole:
            self.hashes += content.leaf_hashes(content.split(bytes(self._rest[:whole])))
            del self._rest[:whole]

    def digest(self) -> bytes:
        """With these no more can be added."""
        if self._rest:
            self.hashes.append(content.leaf_hash(bytes(self._rest)))
            self._rest.clear()
        return content.digest_of_hashes(self.hashes, self.length)


class Served:
    """``Blobs`` as the transport reads them (``transport.BlobSource``): off the event loop, unless they are in memory."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._threads = trio.CapacityLimiter(SERVING_THREADS_MAX)

    async def leaf_hashes(self, digest: bytes) -> list[bytes] | None:
        known = self._blobs.known_leaf_hashes(digest)
        if known is not None:
            return known
        return await in_thread(self._blobs.leaf_hashes, digest, limiter=self._threads)

    async def read(self, digest: bytes, first: int, count: int) -> bytes | memoryview | None:
        start, size = first * LEAF_BYTES, count * LEAF_BYTES
        at_hand = self._blobs.at_hand(digest, start, size)
        if at_hand is not None:
            return at_hand
        return await in_thread(self._blobs.read, digest, start, size, limiter=self._threads)
