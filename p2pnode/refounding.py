"""A new network from the last certified model of one that lost its quorum for good (``p2pnode refound``).

What it is: the old home read to its end, every certificate checked and every model since the newest snapshot recomputed, and a genesis whose
M(0) is that model. What it is not: a way around a quorum; the new network has another identity, and nobody is moved to it who does not join.

Blocking, and offline. Rules for editing: in the old home nothing is done that a start of its node would not do. What is handed on is what its
certificates prove, never what a file claims.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import consensus
from model.errors import PayloadError, SnapshotError
from model.replica import Replica
from p2pnode import founding, texts
from p2pnode.blobs import Blobs
from p2pnode.blocksync import decision_problem
from p2pnode.config import Config
from p2pnode.errors import SetUpError
from p2pnode.genesis import Founder, Genesis, Refounded
from p2pnode.gossip import decision
from p2pnode.home import Home
from p2pnode.recovery import restore_decisions
from p2pnode.store import Store
from p2pnode.wire import BLOCKS_PER_REQUEST_MAX

COPIED_BYTES = 1 << 20  # at a time
_HINT = "another survivor's home may hold it; p2pnode verify says what is wrong with this one"


@dataclass(frozen=True, slots=True)
class LastModel:
    """``replica`` is the certified model of ``state``, the latest that the home can show; its chain goes on to ``tip``."""

    genesis: Genesis
    state: consensus.ChainState
    replica: Replica
    tip: int


def refound(home: Home, config: Config, *, source: Home, founders: Sequence[str] = ()) -> tuple[Genesis, LastModel]:
    """Make ``home`` the first of a new network that goes on from the last model of ``source``. ``founders`` are the others.

    Raises:
        SetUpError: ``home`` belongs to a network already, or ``source`` does not show what it says.
    """
    if home.initialised:
        raise SetUpError(f"{home} belongs to a network already", "choose a fresh home with --home")
    if not source.initialised:
        raise SetUpError(f"{source} belongs to no network", "--from names the home of a survivor")
    with source.locked(), home.locked():
        return _refound(home, config, source=source, founders=founders)


def _refound(home: Home, config: Config, *, source: Home, founders: Sequence[str]) -> tuple[Genesis, LastModel]:
    last = last_model(source)
    old = Blobs(source.blobs, source.snapshots)
    text = old.checked_file(last.genesis.corpus_digest)
    if text is None:
        raise SetUpError(f"{source} does not hold the network's text", _HINT)
    tokenizer = texts.tokenizer_of(last.genesis, old)
    blobs, identity = founding.open_blobs(home), founding.identity_of(home)
    with text.open("rb") as file:
        blobs.put_chunks(iter(partial(file.read, COPIED_BYTES), b""))
    if last.genesis.tokenizer is not None:
        blobs.put_durably(tokenizer.to_json())
    blobs.put(last.replica.read(0, last.replica.byte_length), last.state.model_root)
    blobs.make_durable([last.state.model_root])
    own = Founder(identity.public_key, str(config.announce or config.listen))
    everybody = {own.public_key: own} | {f.public_key: f for f in map(founding.parse_founder, founders)}
    genesis = replace(
        last.genesis,
        nonce=os.urandom(16),
        founders=tuple(everybody[key] for key in sorted(everybody)),
        allowlist=tuple(sorted({*last.genesis.allowlist, *everybody})) if last.genesis.policy == "allowlist" else (),
        model_root=last.state.model_root,
        refounded=Refounded(last.genesis.chain_id, last.state.height, last.state.block_hash),
        imported=False,
    )
    founding.write_genesis(home, genesis)
    return genesis, last


def last_model(home: Home) -> LastModel:
    """The latest model that a home can prove. Nothing may run in it.

    Raises:
        SetUpError: its chain or its models are not what the genesis and the signatures say.
    """
    genesis = founding.read_genesis(home.genesis)
    store = Store(home.chain, genesis.chain_id)
    try:
        restore_decisions(home.votes, store, consensus.Digest(genesis.chain_id))
        return _last_model(genesis, store, Blobs(home.blobs, home.snapshots))
    finally:
        store.close()


def _last_model(genesis: Genesis, store: Store, blobs: Blobs) -> LastModel:
    snapshots = dict(blobs.snapshots())
    state = genesis.state()
    models = [state]  # whose model this disk may hold whole
    for block, certificate in _blocks(store, 1):
        problem = decision_problem(block, certificate, state)
        if problem is not None:
            raise SetUpError(f"block {state.height + 1} of the old chain: {problem}", _HINT)
        state = state.after(block, certificate)
        if snapshots.get(state.height) == state.model_root:
            models.append(state)
    for start in reversed(models):
        replica = _whole(genesis, start, blobs)
        if replica is not None:
            reached, model = _replay(start, replica, store, blobs)
            return LastModel(genesis, reached, model, state.height)
    raise SetUpError("the old home holds no model that its chain certifies", _HINT)


def _whole(genesis: Genesis, state: consensus.ChainState, blobs: Blobs) -> Replica | None:
    if state.height == 0:
        replica = founding.first_model(genesis, None if genesis.first_model_is_drawn else blobs.get(genesis.model_root))
    else:
        try:
            replica = Replica.load(blobs.snapshot_path(state.height))
        except (SnapshotError, OSError):
            return None
    return replica if replica is not None and blobs.model_root(replica) == state.model_root else None


def _replay(
    state: consensus.ChainState, replica: Replica, store: Store, blobs: Blobs
) -> tuple[consensus.ChainState, Replica]:
    """As far as the payloads on this disk lead, each root compared with the certified one."""
    for block, certificate in _blocks(store, state.height + 1):
        weights = consensus.weights(block.contributions, state.membership.current)
        if any(weights):
            payloads = [data for c in block.contributions if (data := blobs.get(c.payload_digest)) is not None]
            if len(payloads) < len(block.contributions):
                break
            try:
                after = replica.apply(payloads, weights)
            except PayloadError:
                break
            if blobs.model_root(after) != block.header.model_root:
                raise SetUpError(
                    f"this machine computes another model than the certified one at height {block.height}", _HINT
                )
            replica = after
        state = state.after(block, certificate)
    return state, replica


def _blocks(store: Store, first: int) -> Iterator[tuple[consensus.Block, consensus.CommitCertificate]]:
    while rows := store.block_rows(first, BLOCKS_PER_REQUEST_MAX):
        for encoded, certificate in rows:
            try:
                yield consensus.Block.decode(encoded), decision(certificate)
            except consensus.Malformed as problem:
                raise SetUpError(f"block {first} of the old chain cannot be read: {problem}", _HINT) from None
            first += 1
