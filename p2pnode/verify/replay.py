"""Every model again, from the payloads that are kept: the aggregate of each height recomputed, its root compared with the certified one.

It begins at M(0), or at a snapshot whose root was compared, and again at the next one wherever a payload is gone.
"""

from collections.abc import Callable
from pathlib import Path

import consensus
from model import compression
from model.errors import PayloadError, SnapshotError
from model.replica import Replica
from p2pnode.founding import first_model
from p2pnode.home import Home
from p2pnode.verify.chain import VerifiedChain
from p2pnode.verify.database import Database
from p2pnode.verify.disk import snapshot_heights
from transport import content


def replay(home: Home, chain: VerifiedChain, database: Database, progress: Callable[[str], None]) -> None:
    ranges: list[tuple[int, int]] = []
    snapshots = dict(snapshot_heights(home))
    replica = _first_model(home, chain)
    for height in range(chain.state.height + 1):
        if replica is None and height in snapshots:
            replica = _certified(chain, height, snapshots[height])
        if replica is None or height == chain.state.height:
            continue
        replica = _step(home, replica, chain, database, height=height + 1)
        if replica is not None:
            joins = ranges and ranges[-1][1] == height
            ranges[-1:] = [(ranges[-1][0], height + 1)] if joins else [*ranges[-1:], (height + 1, height + 1)]
            if height % 100 == 99:
                progress(f"height {height + 1} replayed")
    database.report.replayed = ranges


def _first_model(home: Home, chain: VerifiedChain) -> Replica | None:
    """Drawn, or where the network was refounded the model that its homes keep."""
    replica = first_model(chain.genesis, _blob(home, chain.genesis.model_root))
    return replica if replica is not None and _root(replica) == chain.roots[0] else None


def _blob(home: Home, digest: bytes) -> bytes | None:
    name = digest.hex()
    try:
        return (home.blobs / name[:2] / name).read_bytes()
    except OSError:
        return None


def _certified(chain: VerifiedChain, height: int, path: Path) -> Replica | None:
    """A snapshot, if it is the model that the chain certifies for this height; else it is a fault already."""
    try:
        replica = Replica.load(path)
    except (SnapshotError, OSError):
        return None
    return replica if _root(replica) == chain.roots[height] else None


def _root(replica: Replica) -> bytes:
    return content.content_digest(replica.leaves(), replica.byte_length)


def _step(home: Home, replica: Replica, chain: VerifiedChain, database: Database, *, height: int) -> Replica | None:
    """The model after ``height``, or ``None`` where a payload is not kept (or wrong, which is reported)."""
    row = database.row(height)
    if row is None:
        return None
    block = consensus.Block.decode(row[0])
    weights = consensus.weights(block.contributions, chain.committees[height])
    after = replica
    if any(weights):
        payloads = []
        for contribution in block.contributions:
            data = _blob(home, contribution.payload_digest)
            if data is None or bytes(content.digest_of(data)) != contribution.payload_digest:
                return None  # not kept; or damaged, which is a fault already
            payloads.append(data)
        try:
            for data in payloads:
                compression.check(data, replica.layout)
            after = replica.apply(payloads, weights)
        except PayloadError as problem:
            database.report.fault(
                database.file, f"it lists a payload that is none: {problem}", height=height, field="contributions"
            )
            return None
    root = _root(after)
    if root != block.header.model_root:
        database.report.fault(
            database.file,
            f"{block.header.model_root.hex()[:16]} certified, {root.hex()[:16]} recomputed",
            height=height,
            field="model_root",
        )
        return None
    return after
