"""Every model again, from the payloads that are kept: the aggregate of each height recomputed, its root compared with the certified one.

It begins at M(0), or at a snapshot whose root was compared, and again at the next one wherever a payload is gone.
"""

from collections.abc import Callable

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
            replica = _certified(chain, height, Replica.load, snapshots[height])
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
    genesis, data = chain.genesis, None
    if genesis.refounded is not None:
        name = genesis.model_root.hex()
        try:
            data = (home.blobs / name[:2] / name).read_bytes()
        except OSError:
            return None
    return _certified(chain, 0, first_model, genesis, data)


def _certified(chain: VerifiedChain, height: int, make: Callable[..., Replica | None], *args: object) -> Replica | None:
    """A model, if it is the one that the chain certifies for this height; a damaged snapshot is a fault already."""
    try:
        replica = make(*args)
    except (SnapshotError, OSError):
        return None
    if replica is None:
        return None
    root = _root(replica)
    return replica if root == chain.roots[height] else None


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
            name = contribution.payload_digest.hex()
            try:
                data = (home.blobs / name[:2] / name).read_bytes()
            except OSError:
                return None
            if bytes(content.digest_of(data)) != contribution.payload_digest:
                return None  # a fault already
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
