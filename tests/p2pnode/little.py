"""Small real parts for the tests of a node: identities, a genesis, and a chain with its payloads, all signed for real.

Nothing here is a stand-in: blocks pass `consensus.check_block`, certificates verify, payloads decode, roots are those of the models.
"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

import consensus
import transport
from consensus import Purpose
from model import compression
from model.config import CODECS, ModelConfig, TrainingConfig
from model.layout import Layout
from model.replica import Replica
from p2pnode.founding import model_seed
from p2pnode.genesis import Founder, Genesis
from transport import content

SIZE = {"width": 16, "layers": 1, "heads": 2, "key_value_heads": 1, "feed_forward": 32, "context": 128}
MODEL = ModelConfig(**SIZE)
TRAINING = TrainingConfig(local_steps=2, batch=2, warmup_steps=2)
LAYOUT = Layout.of(MODEL)
TEXT = b"".join(b"line %d of a text that nobody would want to read twice\n" % number for number in range(1500))
PAYLOAD_BYTES = compression.payload_bytes(LAYOUT)

Decided = tuple[consensus.Block, consensus.CommitCertificate]


async def until(condition: Callable[[], Any]) -> None:
    """Let everybody else run until it is so. Threads work in real time, so a test's virtual clock does not bound this."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await trio.lowlevel.checkpoint()


class RecordingLog:
    """Takes every line, for tests that ask what was said."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **fields: self.lines.append((level, event, fields))

    def said(self, event: str) -> list[dict[str, Any]]:
        return [fields for _, name, fields in self.lines if name == event]


def identities(count: int) -> list[transport.Identity]:
    """The same ones in every run, ascending by key: the order of a committee."""
    return sorted((transport.Identity(bytes([seed]) * 32) for seed in range(1, count + 1)), key=lambda i: i.public_key)


def make_genesis(founders: list[transport.Identity], *, addresses: tuple[str, ...] = (), **changes: Any) -> Genesis:
    nonce = bytes(range(16))
    replica = Replica.initial(MODEL, TRAINING, model_seed(nonce))
    genesis = Genesis(
        nonce=nonce,
        founders=tuple(
            Founder(identity.public_key, addresses[place] if addresses else "")
            for place, identity in enumerate(founders)
        ),
        model=MODEL,
        training=TRAINING,
        corpus_digest=content.digest_of(TEXT),
        corpus_bytes=len(TEXT),
        model_root=content.content_digest(replica.leaves(), replica.byte_length),
        policy="open",
        probation_contributions=3,
        round_seconds_max=60,
    )
    return replace(genesis, **changes)


def size_file(directory: Path) -> Path:
    path = directory / "size.json"
    path.write_text(json.dumps(SIZE))
    return path


def text_file(directory: Path) -> Path:
    path = directory / "text.txt"
    path.write_bytes(TEXT)
    return path


def sign(identity: transport.Identity, chain_id: bytes, message: Any) -> Any:
    """A consensus message with its author's signature."""
    signature = consensus.Signature(identity.sign(message.statement(consensus.Digest(chain_id))))
    return replace(message, signature=signature)


def contribution(
    identity: transport.Identity,
    state: consensus.ChainState,
    payload: bytes,
    *,
    purpose: Purpose = Purpose.UPDATE,
    **changes: Any,
) -> consensus.Contribution:
    """A signed announcement for the height after ``state``."""
    unsigned = consensus.Contribution(
        author=consensus.PublicKey(identity.public_key),
        height=state.height + 1,
        base_root=state.model_root,
        payload_digest=consensus.Digest(content.digest_of(payload)),
        payload_bytes=len(payload),
        codec=CODECS[TRAINING.codec],
        purpose=purpose,
        signature=consensus.Signature(b""),
    )
    return sign(identity, state.chain_id, replace(unsigned, **changes))


def payload(seed: int) -> bytes:
    """Valid payload bytes; different for different seeds."""
    return compression.probe(LAYOUT, seed)


def certify(
    signers: list[transport.Identity], chain_id: bytes, block: consensus.Block, *, view: int = 0
) -> consensus.CommitCertificate:
    entries = []
    for identity in sorted(signers, key=lambda i: i.public_key):
        author = consensus.PublicKey(identity.public_key)
        commit = consensus.Commit(author, block.height, view, block.hash, consensus.Signature(b""))
        entries.append((author, sign(identity, chain_id, commit).signature))
    return consensus.CommitCertificate(block.height, view, block.hash, tuple(entries))


class Chain:
    """A chain that grows by decided blocks, with every payload and the model after each."""

    def __init__(self, founders: int = 4, *, genesis: Genesis | None = None) -> None:
        self.founders = identities(founders)
        self.genesis = genesis or make_genesis(self.founders)
        self.states = [self.genesis.state()]
        self.replicas = [Replica.initial(MODEL, TRAINING, model_seed(self.genesis.nonce))]
        self.decided: list[Decided] = []
        self.payloads: dict[bytes, bytes] = {}

    @property
    def state(self) -> consensus.ChainState:
        return self.states[-1]

    @property
    def replica(self) -> Replica:
        return self.replicas[-1]

    def grow(self, heights: int = 1, *, contributors: tuple[int, ...] = (0, 1), seed: int | None = None) -> "Chain":
        """Decide blocks. ``seed`` makes everybody offer the same bytes."""
        for _ in range(heights):
            block, replica = self.next_block(contributors=contributors, seed=seed)
            certificate = certify(self.founders, self.genesis.chain_id, block)
            self.decided.append((block, certificate))
            self.states.append(self.state.after(block, certificate))
            self.replicas.append(replica)
        return self

    def next_block(
        self, *, contributors: tuple[int, ...] = (0, 1), seed: int | None = None
    ) -> tuple[consensus.Block, Replica]:
        """A block that may follow, and the model it leads to; not decided."""
        state, listed = self.state, []
        for place in contributors[: len(self.founders)]:
            data = payload(state.height * 100 + place if seed is None else seed)
            self.payloads[content.digest_of(data)] = data
            listed.append(contribution(self.founders[place], state, data))
        weights = consensus.weights(listed, state.membership.current)
        replica = self.replica.apply([self.payloads[c.payload_digest] for c in listed], weights)
        root = consensus.Digest(content.content_digest(replica.leaves(), replica.byte_length))
        proposer = state.membership.current.proposer(state.height + 1, 0)
        template = consensus.BlockTemplate(state, proposer)
        return consensus.build_block(template, contributions=listed, model_root=root), replica
