"""The world's contents: which contributions exist and which model root results. Pure functions, so that every driver agrees.

What was made once is remembered, across the scenarios of a process: equal questions have equal answers.
"""

import hashlib
from collections.abc import Iterable
from functools import lru_cache

from consensus import (
    Block,
    BlockTemplate,
    ChainState,
    Contribution,
    Digest,
    Purpose,
    Rules,
    Signature,
    build_block,
    weights,
)
from consensus.requests import encode_request
from p2pnode.simulation.keys import KeyedSignatures, key

CHAIN_ID = Digest(hashlib.sha256(b"a chain for tests").digest())
ROOT_0 = Digest(hashlib.sha256(b"the first model").digest())
BAD_PAYLOAD = b"bad"
"""The salt of a contribution whose payload every honest node refuses: NaN, too large, no codec at all."""

_made: dict[tuple[object, ...], Block] = {}
_verdicts: dict[bytes, bool] = {}
_MADE_MAX = 20_000


def forget() -> None:
    """What is remembered across runs, when the code under test is about to change."""
    _made.clear()
    _verdicts.clear()
    _genesis.cache_clear()


def genesis(members: int, rules: Rules | None = None) -> ChainState:
    return _genesis(members, rules or Rules())


@lru_cache(maxsize=256)
def _genesis(members: int, rules: Rules) -> ChainState:
    return ChainState.genesis(CHAIN_ID, rules=rules, founders=[key(i) for i in range(members)], model_root=ROOT_0)


def contribution(
    signatures: KeyedSignatures, index: int, state: ChainState, *, purpose: Purpose = Purpose.UPDATE, salt: bytes = b""
) -> Contribution:
    """What node `index` offers to the height after `state`; equal every time it is asked."""
    draft = _draft(index, state.height + 1, state.model_root, purpose, salt)
    signature = signatures.signer(draft.author)(draft.statement(state.chain_id))
    return _signed(draft, signature)


@lru_cache(maxsize=65536)
def _draft(index: int, height: int, base_root: Digest, purpose: Purpose, salt: bytes) -> Contribution:
    author = key(index)
    payload = Digest(hashlib.sha256(b"payload" + author + height.to_bytes(8, "big") + salt).digest())
    if salt == BAD_PAYLOAD:
        payload = Digest(BAD_PAYLOAD + payload[len(BAD_PAYLOAD) :])
    return Contribution(author, height, base_root, payload, 1000, 1, purpose, Signature(b""))


@lru_cache(maxsize=65536)
def _signed(draft: Contribution, signature: Signature) -> Contribution:
    return Contribution(
        draft.author,
        draft.height,
        draft.base_root,
        draft.payload_digest,
        draft.payload_bytes,
        draft.codec,
        draft.purpose,
        signature,
    )


def model_root(previous: Digest, contributions: Iterable[Contribution]) -> Digest:
    updates = sorted(c.payload_digest for c in contributions if c.purpose == Purpose.UPDATE)
    return Digest(hashlib.sha256(previous + b"".join(updates)).digest()) if updates else previous


def block_on(template: BlockTemplate, contributions: Iterable[Contribution], *, root: Digest | None = None) -> Block:
    """The block that an honest proposer makes of these; `root` is a liar's."""
    listed = tuple(contributions)
    name = _name(template, listed, root)
    block = _made.get(name)
    if block is None:
        moved = any(weights(listed, template.state.membership.current))
        right = model_root(template.state.model_root, listed if moved else ())
        block = build_block(template, contributions=listed, model_root=right if root is None else root)
        if len(_made) > _MADE_MAX:
            _made.clear()
        _made[name] = block
        if not moved and root is None:
            _verdicts[block.hash] = True
    return block


def _name(template: BlockTemplate, listed: tuple[Contribution, ...], root: Digest | None) -> tuple[object, ...]:
    state = template.state
    certificate = b"" if state.last_certificate is None else state.last_certificate.encode()
    rest = (*(e.encode() for e in template.evidence), *(encode_request(r) for r in template.requests))
    signed = (c.payload_digest + c.signature for c in listed)
    return (
        state.rules,
        state.block_hash,
        state.membership.hash,
        certificate,
        template.proposer,
        root or b"",
        *signed,
        b"|",
        *rest,
    )


def wrong_root(template: BlockTemplate, contributions: Iterable[Contribution]) -> Block:
    """Fair in form; nobody can reproduce the result."""
    return block_on(template, contributions, root=Digest(hashlib.sha256(b"wrong").digest()))


def root_is_right(block: Block) -> bool:
    """The payloads are what they should be, and so is the root: what a driver answers to CheckBlock."""
    verdict = _verdicts.get(block.hash)
    if verdict is None:
        if len(_verdicts) > _MADE_MAX:
            _verdicts.clear()
        refused = any(c.payload_digest.startswith(BAD_PAYLOAD) for c in block.contributions)
        right = model_root(block.header.previous_root, block.contributions)
        verdict = _verdicts[block.hash] = not refused and block.header.model_root == right
    return verdict
