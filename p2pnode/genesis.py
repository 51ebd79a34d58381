"""The genesis: everything that belongs to the network and to no single node.

What it is: one canonical JSON document (sorted keys, no spaces, no floats) and its hash, the chain id. A node that holds the bytes
and knows the hash needs to trust nobody about them. What it is not: configuration; a joiner's flags never change it.

For editors: every field is bounded in ``parse`` before it is used, because joiners fetch these bytes from strangers. A new field is a
new protocol version, unless it stands in the document only where it differs from a default that changes nothing (``model.config``).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NewType, get_args

import consensus
from model.config import CODECS, ModelConfig, TrainingConfig, check_together
from model.limits import CORPUS_BYTES_MAX, TOKENIZER_BYTES_MAX
from model.words import BYTES, Words
from p2pnode.config import ALLOWED_MAX, Policy, parse_endpoint
from p2pnode.errors import UserError

PROTOCOL_VERSION = 2
GENESIS_BYTES_MAX = (
    96 * 1024
)  # 64 founders of about 350 bytes with their addresses, 1024 allowed keys of 67, and the rest
MEMBERS_MAX = 64  # a full mesh of votes: 64 members send 16 k of them a height
ADDRESS_CHARACTERS_MAX = 260  # a DNS name has at most 253
ROUND_SECONDS_MAX = 86_400  # of `round_seconds_max`: a height a day
PROBATION_CONTRIBUTIONS_MAX = 1_000_000  # two years of one-minute rounds: nobody is admitted
DEFAULT_ROUND_SECONDS_MAX = 60
PROBATION_CONTRIBUTIONS = 3  # K of SPEC.md, M2
DEFAULT_THRESHOLD = 67  # percent: just more than two thirds, and no more than that (SPEC.md, Q4)
HEIGHT_MAX = 2**62  # what the chain's database and arithmetic hold with room to spare

ChainId = NewType("ChainId", bytes)


@dataclass(frozen=True, slots=True)
class Founder:
    """A first member: its 32-byte Ed25519 key, and where it listens (``host:port``, or empty when unknown)."""

    public_key: bytes
    address: str


@dataclass(frozen=True, slots=True)
class Refounded:
    """Where M(0) comes from, when it is not drawn: the model after the block ``block`` of ``height`` on the chain of ``network``."""

    network: bytes
    height: int
    block: bytes


@dataclass(frozen=True, slots=True)
class TokenizerBlob:
    """A ``tokenizer.json`` by its content digest, and how long it is."""

    digest: bytes
    length: int


@dataclass(frozen=True, slots=True)
class Genesis:
    """The network's constants. ``model_root`` is the content digest of M(0), ``corpus_digest`` that of the text.

    ``allowlist``: under that policy the keys that may become members, ascending, the founders' among them. ``words``: how the text's
    tokens stand in it; without a ``tokenizer`` they are bytes.
    """

    nonce: bytes
    founders: tuple[Founder, ...]
    model: ModelConfig
    training: TrainingConfig
    corpus_digest: bytes
    corpus_bytes: int
    model_root: bytes
    policy: Policy
    probation_contributions: int
    round_seconds_max: int
    threshold_percent: int = DEFAULT_THRESHOLD
    allowlist: tuple[bytes, ...] = ()
    refounded: Refounded | None = None
    imported: bool = False  # M(0) is a model that the founder had already (`init --from`)
    words: Words = BYTES
    tokenizer: TokenizerBlob | None = None

    def to_bytes(self) -> bytes:
        """Canonical JSON: the only form that is hashed, stored and sent."""
        document: dict[str, Any] = {
            "protocol": PROTOCOL_VERSION,
            "nonce": self.nonce.hex(),
            "founders": [{"public_key": f.public_key.hex(), "address": f.address} for f in self.founders],
            "model": self.model.to_dict(),
            "training": self.training.to_dict(),
            "corpus": {"digest": self.corpus_digest.hex(), "bytes": self.corpus_bytes, **_words_document(self.words)},
            "model_root": self.model_root.hex(),
            "policy": self.policy,
            "threshold_percent": self.threshold_percent,
            "allowlist": [key.hex() for key in self.allowlist],
            "refounded": None if self.refounded is None else _refounded_document(self.refounded),
            "probation_contributions": self.probation_contributions,
            "round_seconds_max": self.round_seconds_max,
        }
        if self.imported:
            document["imported"] = True
        if self.tokenizer is not None:
            document["tokenizer"] = {"digest": self.tokenizer.digest.hex(), "bytes": self.tokenizer.length}
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    @property
    def first_model_is_drawn(self) -> bool:
        """Whether every node computes M(0) for itself; else its bytes are a blob."""
        return self.refounded is None and not self.imported

    @property
    def blobs(self) -> frozenset[bytes]:
        """The digests of what every node keeps for as long as the network lives."""
        model = () if self.first_model_is_drawn else (self.model_root,)
        return frozenset([self.corpus_digest, *model, *(() if self.tokenizer is None else (self.tokenizer.digest,))])

    @property
    def chain_id(self) -> ChainId:
        return chain_id_of(self.to_bytes())

    @property
    def rules(self) -> consensus.Rules:
        """What the committee follows (SPEC.md: M, N and Q4)."""
        return consensus.Rules(
            admission=self.policy,
            probation_contributions=self.probation_contributions,
            members_max=MEMBERS_MAX,
            # In full, 67 percent would ask one vote more than two thirds do from 103 members on.
            threshold_percent=0 if self.threshold_percent == DEFAULT_THRESHOLD else self.threshold_percent,
            allowlist=tuple(map(consensus.PublicKey, self.allowlist)),
            codec=CODECS[self.training.codec],
        )

    def state(self) -> consensus.ChainState:
        """The chain at height 0: the founders are the committee."""
        return consensus.ChainState.genesis(
            consensus.Digest(self.chain_id),
            rules=self.rules,
            founders=[consensus.PublicKey(f.public_key) for f in self.founders],
            model_root=consensus.Digest(self.model_root),
        )


def chain_id_of(document: bytes) -> ChainId:
    """The chain id: SHA-256 over a tag and the canonical document."""
    return ChainId(hashlib.sha256(b"p2pnode-genesis-v1\0" + document).digest())


def parse(document: bytes) -> Genesis:
    """Read a genesis that may come from a stranger.

    Raises:
        UserError: it is too large, malformed, out of bounds, or not in canonical form.
    """
    if len(document) > GENESIS_BYTES_MAX:
        raise _bad(f"{len(document)} bytes, at most {GENESIS_BYTES_MAX} are allowed")
    try:
        raw = json.loads(document)
        genesis = _from_document(raw)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise _bad(str(problem) or type(problem).__name__) from None
    if genesis.to_bytes() != document:
        raise _bad("it is not in canonical form")
    return genesis


def _from_document(raw: Any) -> Genesis:
    if raw["protocol"] != PROTOCOL_VERSION:
        raise ValueError(f"protocol {raw['protocol']}, this version speaks {PROTOCOL_VERSION}")
    founders = tuple(Founder(_hex(f["public_key"], 32), _address(f["address"])) for f in raw["founders"])
    _check_founders(founders)
    if raw["policy"] not in get_args(Policy):
        raise ValueError(f"unknown policy {raw['policy']!r}")
    if len(raw["allowlist"]) > ALLOWED_MAX:
        raise ValueError(f"{len(raw['allowlist'])} allowed keys, at most {ALLOWED_MAX} are")
    model, training = ModelConfig.from_dict(raw["model"]), TrainingConfig.from_dict(raw["training"])
    tokenizer = _tokenizer(raw["tokenizer"]) if "tokenizer" in raw else None
    check_together(model, training, **({} if tokenizer is None else {"vocabulary": 1}))
    genesis = Genesis(
        nonce=_hex(raw["nonce"], 16),
        founders=founders,
        model=model,
        training=training,
        corpus_digest=_hex(raw["corpus"]["digest"], 32),
        corpus_bytes=_integer(raw["corpus"]["bytes"], 1, CORPUS_BYTES_MAX),
        model_root=_hex(raw["model_root"], 32),
        policy=raw["policy"],
        probation_contributions=_integer(raw["probation_contributions"], 1, PROBATION_CONTRIBUTIONS_MAX),
        round_seconds_max=_integer(raw["round_seconds_max"], 1, ROUND_SECONDS_MAX),
        threshold_percent=_integer(raw["threshold_percent"], DEFAULT_THRESHOLD, 100),
        allowlist=tuple(_hex(key, 32) for key in raw["allowlist"]),
        refounded=None if raw["refounded"] is None else _refounded(raw["refounded"]),
        imported="imported" in raw,
        words=_words(raw["corpus"], tokenizer),
        tokenizer=tokenizer,
    )
    if genesis.imported and genesis.refounded is not None:
        raise ValueError("a first model that is both imported and another network's last")
    if genesis.corpus_bytes % genesis.words.width:
        raise ValueError(f"a text of {genesis.corpus_bytes} bytes in words of {genesis.words.width}")
    _ = genesis.rules  # refuses a threshold that lowers the quorum, and an allowlist that is none
    return genesis


def _words(raw: Any, tokenizer: TokenizerBlob | None) -> Words:
    words = Words(_integer(raw.get("word_bytes", BYTES.width), 1, 4), "masked" in raw)
    if words == BYTES and tokenizer is not None:
        raise ValueError("words of one byte hold bytes, and the network has a tokenizer")
    return words


def _words_document(words: Words) -> dict[str, Any]:
    width = {} if words.width == BYTES.width else {"word_bytes": words.width}
    return width | ({"masked": True} if words.masked else {})


def _tokenizer(raw: Any) -> TokenizerBlob:
    return TokenizerBlob(_hex(raw["digest"], 32), _integer(raw["bytes"], 1, TOKENIZER_BYTES_MAX))


def _refounded(raw: Any) -> Refounded:
    return Refounded(_hex(raw["network"], 32), _integer(raw["height"], 0, HEIGHT_MAX), _hex(raw["block"], 32))


def _refounded_document(origin: Refounded) -> dict[str, Any]:
    return {"network": origin.network.hex(), "height": origin.height, "block": origin.block.hex()}


def _check_founders(founders: Sequence[Founder]) -> None:
    keys = [f.public_key for f in founders]
    if not 1 <= len(keys) <= MEMBERS_MAX:
        raise ValueError(f"{len(keys)} founders, 1 to {MEMBERS_MAX} are allowed")
    if keys != sorted(set(keys)):
        raise ValueError("founders are not in ascending order of their keys, each once")


def _hex(value: Any, size: int) -> bytes:
    data = bytes.fromhex(value)
    if len(data) != size:
        raise ValueError(f"a value of {len(data)} bytes where {size} are expected")
    return data


def _integer(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{value!r} is not an integer from {low} to {high}")
    return value


def _address(value: Any) -> str:
    """Where a founder listens, in the form in which it is dialed, or empty."""
    if not isinstance(value, str) or len(value) > ADDRESS_CHARACTERS_MAX:
        raise ValueError(f"an address of at most {ADDRESS_CHARACTERS_MAX} characters is expected")
    if value and str(parse_endpoint(value)) != value:
        raise ValueError(f"{value!r} is not an address in its usual form")
    return value


def _bad(why: str) -> UserError:
    return UserError(f"the genesis cannot be used: {why}", hint="fetch it again, or ask the founders for theirs")
