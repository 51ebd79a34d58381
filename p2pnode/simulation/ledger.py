"""The world's contents: which contributions exist and which model root results. Pure functions, so that every driver agrees."""

import hashlib
from collections.abc import Iterable

from consensus import Block, BlockTemplate, ChainState, Contribution, Digest, Purpose, Rules, build_block
from p2pnode.simulation.keys import IssuedSignatures, key

CHAIN_ID = Digest(hashlib.sha256(b"a chain for tests").digest())
ROOT_0 = Digest(hashlib.sha256(b"the first model").digest())


def genesis(members: int, rules: Rules | None = None) -> ChainState:
    return ChainState.genesis(
        CHAIN_ID, rules=rules or Rules(), founders=[key(i) for i in range(members)], model_root=ROOT_0
    )


def contribution(
    signatures: IssuedSignatures, index: int, state: ChainState, *, purpose=Purpose.UPDATE, salt=b""
) -> Contribution:
    """What node `index` offers to the height after `state`; equal every time it is asked."""
    author, height = key(index), state.height + 1
    payload = Digest(hashlib.sha256(b"payload" + author + height.to_bytes(8, "big") + salt).digest())
    draft = Contribution(author, height, state.model_root, payload, 1000, 1, purpose, b"")
    signature = signatures.signer(author)(draft.statement(state.chain_id))
    return Contribution(author, height, state.model_root, payload, 1000, 1, purpose, signature)


def model_root(previous: Digest, contributions: Iterable[Contribution]) -> Digest:
    updates = sorted(c.payload_digest for c in contributions if c.purpose == Purpose.UPDATE)
    return Digest(hashlib.sha256(previous + b"".join(updates)).digest()) if updates else previous


def block_on(template: BlockTemplate, contributions: Iterable[Contribution]) -> Block:
    listed = list(contributions)
    root = model_root(template.state.model_root, listed)
    return build_block(template, contributions=listed, model_root=root)


def wrong_root(template: BlockTemplate, contributions: Iterable[Contribution]) -> Block:
    """Fair in form; nobody can reproduce the result."""
    return build_block(template, contributions=contributions, model_root=Digest(hashlib.sha256(b"wrong").digest()))


def root_is_right(block: Block) -> bool:
    return block.header.model_root == model_root(block.header.previous_root, block.contributions)
