"""The content address of bytes: a Merkle tree over leaves of 64 KiB, with the length bound in.

    leaf   = SHA-256(0x00 | bytes of the leaf)
    node   = SHA-256(0x01 | left | right), the left subtree holding the largest power of two below n (RFC 6962)
    digest = SHA-256(0x02 | length as u64 big-endian | root)

No bytes at all have the root SHA-256("") of RFC 6962. Every leaf but the last is full. The prefixes keep a node from
passing for a leaf, the length keeps a short last leaf from passing for a full one. Everything that travels in bulk is
named so: payloads, corpus, snapshots; the model root is the digest of the model's canonical bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import Final, NewType

from transport.limits import LEAF_BYTES

ContentDigest = NewType("ContentDigest", bytes)
Buffer = bytes | bytearray | memoryview

DIGEST_BYTES: Final = 32
_LEAF, _NODE, _DIGEST = b"\x00", b"\x01", b"\x02"


def leaf_count(length: int) -> int:
    """Leaves that `length` bytes take."""
    return -(-length // LEAF_BYTES)


def leaf_length(index: int, length: int) -> int:
    """Bytes in leaf `index` of a blob of `length`."""
    return min(LEAF_BYTES, length - index * LEAF_BYTES)


def leaf_hash(leaf: Buffer) -> bytes:
    """The hash of one leaf."""
    hasher = hashlib.sha256(_LEAF)
    hasher.update(leaf)
    return hasher.digest()


def leaf_hashes(leaves: Iterable[Buffer]) -> list[bytes]:
    """The hash of each leaf."""
    return [leaf_hash(leaf) for leaf in leaves]


def split(data: Buffer) -> list[memoryview]:
    """The leaves of bytes in memory, without a copy."""
    view = memoryview(data).cast("B")
    return [view[start : start + LEAF_BYTES] for start in range(0, len(view), LEAF_BYTES)]


def digest_of_hashes(hashes: Sequence[bytes], length: int) -> ContentDigest:
    """The digest of a blob of `length` bytes whose leaves have these hashes."""
    if len(hashes) != leaf_count(length):
        raise ValueError(f"{len(hashes)} leaf hashes for {length} bytes")
    return ContentDigest(hashlib.sha256(_DIGEST + struct.pack(">Q", length) + _root(hashes)).digest())


def content_digest(leaves: Iterable[Buffer], length: int) -> ContentDigest:
    """The digest of a blob given leaf by leaf."""
    return digest_of_hashes(leaf_hashes(leaves), length)


def digest_of(data: Buffer) -> ContentDigest:
    """The digest of bytes in memory."""
    return content_digest(split(data), memoryview(data).nbytes)


def levels(hashes: Sequence[bytes]) -> list[list[bytes]]:
    """The tree over leaf hashes, level by level up to the root; an odd last node moves up as it is, which gives RFC 6962's tree."""
    sha256 = hashlib.sha256
    tree = [list(hashes)]
    while len(tree[-1]) > 1:
        level = tree[-1]
        above = [sha256(_NODE + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            above.append(level[-1])
        tree.append(above)
    return tree


def inclusion_path(tree: Sequence[Sequence[bytes]], index: int) -> list[bytes]:
    """What proves leaf `index` of a tree (`levels`) to whoever knows the digest: the hash beside each node on its way up."""
    path = []
    for level in tree[:-1]:
        if index ^ 1 < len(level):
            path.append(level[index ^ 1])
        index //= 2
    return path


def path_length(index: int, length: int) -> int:
    """Hashes in the inclusion path of leaf `index` of a blob of `length`."""
    return len(_sides(index, leaf_count(length)))


def verify_leaf(digest: bytes, length: int, index: int, leaf: Buffer, path: Sequence[Buffer]) -> bool:
    """Whether it is leaf `index` of the blob, by nothing but its inclusion path."""
    if not 0 <= index < leaf_count(length) or len(leaf) != leaf_length(index, length):
        return False
    sides = _sides(index, leaf_count(length))
    if len(path) != len(sides) or any(len(beside) != DIGEST_BYTES for beside in path):
        return False
    node = leaf_hash(leaf)
    for is_right, beside in zip(sides, path, strict=True):
        pair = (beside, node) if is_right else (node, beside)
        node = hashlib.sha256(b"".join((_NODE, *pair))).digest()
    return hashlib.sha256(_DIGEST + struct.pack(">Q", length) + node).digest() == digest


def _sides(index: int, width: int) -> list[bool]:
    """For each level on the way up at which a leaf has a node beside it: whether that stands on its left."""
    sides = []
    while width > 1:
        if index ^ 1 < width:
            sides.append(bool(index % 2))
        index, width = index // 2, (width + 1) // 2
    return sides


def _root(hashes: Sequence[bytes]) -> bytes:
    return levels(hashes)[-1][0] if hashes else hashlib.sha256(b"").digest()
