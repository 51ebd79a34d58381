"""How a home becomes part of a network: by founding one, by a genesis file, or by asking a peer.

Blocking, except for ``join``. What it is not: a running node; nothing here trains or votes.

The rule that keeps joining safe: a genesis is only ever accepted with the chain id that the peer's HELLO was pinned to (or that the
operator named with ``--network``), and everything else, corpus and model, is then checked against the genesis.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import trio

import transport
from model.config import ModelConfig, TrainingConfig, check_together
from model.errors import ConfigError, SnapshotError
from model.replica import Replica
from model.tokenizer import ByteTokenizer, Tokenizer
from p2pnode import texts
from p2pnode.blobs import Blobs
from p2pnode.config import Config, Endpoint, Policy, parse_endpoint
from p2pnode.errors import SetUpError, UserError, why
from p2pnode.genesis import (
    DEFAULT_ROUND_SECONDS_MAX,
    GENESIS_BYTES_MAX,
    PROBATION_CONTRIBUTIONS,
    Founder,
    Genesis,
    chain_id_of,
    parse,
)
from p2pnode.home import Home
from p2pnode.importing import ImportedModel, open_model
from p2pnode.logs import Logger
from p2pnode.reading import SETTINGS_OF_TEXT, Say, digest_of_text, make, tokenizer_for, tokenizer_named
from p2pnode.tokens import Token, parse_token
from p2pnode.wire import Method
from transport import content
from transport.machine import in_thread, random_bytes


def identity_of(home: Home) -> transport.Identity:
    """The node's key: the one in the home, or a new one.

    Raises:
        SetUpError: it is readable by others, damaged, or cannot be written; or it has moved to another home.
    """
    home.check_key_is_here()
    try:
        return transport.Identity.load(home.key) if home.key.exists() else transport.Identity.create(home.key)
    except transport.UserError as problem:
        raise SetUpError(problem.message, problem.hint) from None


def open_blobs(home: Home) -> Blobs:
    return Blobs(home.blobs, home.snapshots)


def initialise(
    home: Home,
    config: Config,
    *,
    founders: Sequence[str] = (),
    genesis_file: Path | None = None,
    seed: int | None = None,
    model_folder: Path | None = None,
    say: Say = lambda line: None,
) -> Genesis:
    """Make a home part of a network without starting it: found one (``founders`` are the others), or take a genesis from a file.

    ``model_folder``: transformers' form of the first model, which else is drawn.

    Raises:
        SetUpError: the home belongs to a network already, or something given cannot be used.
    """
    home.create()
    if home.initialised:
        raise SetUpError(f"{home} belongs to a network already", "start it, or choose another home with --home")
    identity = identity_of(home)
    if genesis_file is not None:
        genesis = read_genesis(genesis_file)
        if names_a_text(config):
            keep_corpus(home, config, genesis, say=say)
    else:
        imported = None if model_folder is None else open_model(model_folder)
        genesis = _found(home, config, identity, founders=founders, seed=seed, imported=imported, say=say)
    write_genesis(home, genesis)
    return genesis


def _found(
    home: Home,
    config: Config,
    identity: transport.Identity,
    *,
    founders: Sequence[str],
    seed: int | None,
    imported: ImportedModel | None,
    say: Say,
) -> Genesis:
    tokenizer = tokenizer_named(config) if imported is None else imported.words(config, say)
    try:
        training = training_of(config)
        model = imported.config if imported is not None else _sized(config, tokenizer)
        check_together(model, training, vocabulary=tokenizer.vocabulary)
    except ConfigError as problem:
        raise SetUpError(problem.message, problem.hint) from None
    policy, allowed = admission(config)
    nonce = random_bytes(16) if seed is None else hashlib.sha256(f"p2pnode-seed-{seed}".encode()).digest()[:16]
    blobs = open_blobs(home)
    if imported is None:
        root = _root(Replica.initial(model, training, model_seed(nonce)))
    else:
        root, _ = blobs.put_chunks(imported.replica(training, say).leaves())
    try:
        text = make(home, config, blobs, tokenizer, sequence=training.sequence, say=say)
    except BaseException:
        blobs.drop(root)  # where nothing was founded, nothing is left
        raise
    own = Founder(identity.public_key, str(config.announce or config.listen))
    everybody = {own.public_key: own} | {f.public_key: f for f in map(parse_founder, founders)}
    return Genesis(
        nonce=nonce,
        founders=tuple(everybody[key] for key in sorted(everybody)),
        model=model,
        training=training,
        corpus_digest=text.digest,
        corpus_bytes=text.length,
        words=text.words,
        tokenizer=text.tokenizer,
        model_root=root,
        imported=imported is not None,
        policy=policy,
        probation_contributions=PROBATION_CONTRIBUTIONS,
        round_seconds_max=DEFAULT_ROUND_SECONDS_MAX,
        threshold_percent=config.threshold,
        allowlist=tuple(sorted(allowed | everybody.keys())) if policy == "allowlist" else (),
    )


def _sized(config: Config, tokenizer: Tokenizer) -> ModelConfig:
    return ModelConfig.named(config.size, moe=config.moe, vocabulary=tokenizer.vocabulary)


def _root(model: Replica) -> bytes:
    return content.content_digest(model.leaves(), model.byte_length)


def admission(config: Config) -> tuple[Policy, set[bytes]]:
    """Who may become a member of a network that is founded with these settings: the policy, and the keys that it names.

    Raises:
        SetUpError: the settings contradict one another.
    """
    policy = config.policy or ("open" if config.listen.loopback else "invite")
    if policy == "allowlist" and not config.allow:
        raise SetUpError(
            "--policy allowlist names nobody", "--allow KEY for each who may become a member; p2pnode id prints the key"
        )
    if policy != "allowlist" and config.allow:
        raise SetUpError(f"--allow: the policy is {policy}, which asks no list", "add --policy allowlist")
    return policy, {bytes.fromhex(key) for key in config.allow}


def model_seed(nonce: bytes) -> int:
    """The number from which M(0) is drawn."""
    return int.from_bytes(nonce[:8], "big")


def parse_founder(text: str) -> Founder:
    """``PUBLICKEY@HOST:PORT`` as ``p2pnode id`` prints it. Raises SetUpError."""
    key, separator, address = text.partition("@")
    try:
        public_key = bytes.fromhex(key)
        endpoint = parse_endpoint(address)
    except ValueError:
        public_key, endpoint = b"", Endpoint("", 0)
    if not separator or len(public_key) != 32:
        raise SetUpError(
            f"--founder {text[:90]}: not PUBLICKEY@HOST:PORT", "p2pnode id prints the line for each founder"
        )
    return Founder(public_key, str(endpoint))


def names_a_text(config: Config) -> bool:
    """Whether a person chose the text, in whatever way."""
    return any(config.given(setting) for setting in SETTINGS_OF_TEXT)


def keep_corpus(home: Home, config: Config, genesis: Genesis, *, say: Say) -> None:
    """Keep a text that is the network's. Raises SetUpError where it is not."""
    blobs = open_blobs(home)
    tokenizer = tokenizer_for(genesis, config)
    made = make(home, config, blobs, tokenizer, sequence=genesis.training.sequence, say=say)
    if made.digest != genesis.corpus_digest:
        blobs.drop(made.digest)
        raise SetUpError(
            f"{_named(config)}: not this network's text (digest {made.digest.hex()[:16]}, "
            f"the genesis names {genesis.corpus_digest.hex()[:16]})",
            "leave --data out: the text comes from the peers",
        )


def _named(config: Config) -> str:
    return ", ".join(map(str, (*config.data, *config.dataset))) or "the text"


def read_genesis(path: Path) -> Genesis:
    try:
        with path.open("rb") as file:
            document = file.read(GENESIS_BYTES_MAX + 1)
    except OSError as problem:
        raise SetUpError(f"{path}: {why(problem)}", "name the genesis file that the founder's init wrote") from None
    try:
        return parse(document)
    except UserError as problem:
        raise SetUpError(f"{path}: {problem.message}", problem.hint) from None


def write_genesis(home: Home, genesis: Genesis) -> None:
    """Whole or not at all: a home with a genesis belongs to that network for good."""
    part = home.genesis.with_suffix(".part")
    with part.open("wb") as file:
        file.write(genesis.to_bytes())
        file.flush()
        os.fsync(file.fileno())
    part.rename(home.genesis)


def check_flags(config: Config, genesis: Genesis) -> None:
    """What belongs to the network stands in the genesis; a flag that says otherwise is refused with both values.

    Raises:
        SetUpError: the first flag that differs.
    """
    if config.network is not None and config.network != genesis.chain_id.hex():
        raise _differs("network", config.network, genesis.chain_id.hex())
    if config.given("size") or config.given("moe"):
        try:
            wanted = ModelConfig.named(config.size, moe=config.moe, vocabulary=genesis.model.vocabulary)
        except ConfigError as problem:
            raise SetUpError(problem.message, problem.hint) from None
        if wanted != genesis.model:
            raise _differs(
                "size",
                f"{config.size}{' --moe' * config.moe} ({wanted.parameters} parameters)",
                f"a model of {genesis.model.parameters}",
            )
    if config.given("training"):
        _check_training(config, genesis)
    if config.given("policy") and config.policy != genesis.policy:
        raise _differs("policy", str(config.policy), genesis.policy)
    if config.given("threshold") and config.threshold != genesis.threshold_percent:
        raise _differs("threshold", str(config.threshold), str(genesis.threshold_percent))
    if config.given("allow") and not {bytes.fromhex(key) for key in config.allow} <= set(genesis.allowlist):
        raise _differs(
            "allow", f"({len(config.allow)} keys)", f"a list of {len(genesis.allowlist)} without some of them"
        )
    if config.invite is not None:
        check_token(parse_token(config.invite), genesis)
    if config.given("tokenizer"):
        _check_tokenizer(config, genesis)
    if names_a_text(config):
        digest = digest_of_text(genesis, config, say=lambda line: None)
        if digest != genesis.corpus_digest:
            raise _differs("data", f"text {digest.hex()[:16]}", f"text {genesis.corpus_digest.hex()[:16]}")


def _check_tokenizer(config: Config, genesis: Genesis) -> None:
    tokenizer = tokenizer_named(config)
    given = None if isinstance(tokenizer, ByteTokenizer) else content.digest_of(tokenizer.to_json())
    held = None if genesis.tokenizer is None else genesis.tokenizer.digest
    if given != held:
        names = ("bytes" if digest is None else digest.hex()[:16] for digest in (given, held))
        raise _differs("tokenizer", *(f"{name}" for name in names))


def training_of(config: Config) -> TrainingConfig:
    """How a network that this node founds trains. Raises ConfigError."""
    return TrainingConfig() if config.training is None else TrainingConfig.from_file(config.training)


def _check_training(config: Config, genesis: Genesis) -> None:
    try:
        wanted = training_of(config)
    except ConfigError as problem:
        raise SetUpError(problem.message, problem.hint) from None
    for field in fields(TrainingConfig):
        given, held = (getattr(training, field.name) for training in (wanted, genesis.training))
        if given != held:
            raise _differs("training", f"{config.training} ({field.name} {given})", f"{field.name} {held}")


def check_token(token: Token, genesis: Genesis) -> None:
    """Raises SetUpError for an invitation to another network, or to one that asks for none."""
    if token.network != genesis.chain_id:
        raise SetUpError(
            f"--invite: the token is for network {token.network.hex()[:16]}, this is {genesis.chain_id.hex()[:16]}",
            "take part in the token's network with another --home and a bootstrap node of it",
        )
    if genesis.policy != "invite":
        raise SetUpError(
            f"--invite: this network's policy is {genesis.policy}, which asks no invitation", "leave --invite out"
        )


def _differs(flag: str, given: str, held: str) -> SetUpError:
    return SetUpError(
        f"--{flag} {given}: the network has {held}",
        f"leave --{flag} out: it belongs to the network; another --home founds another network",
    )


async def join(swarm: transport.Swarm, config: Config, log: Logger) -> Genesis:
    """Learn the genesis from the first peer that has one, and pin it. Waits for ever; the swarm says why it waits.

    Raises:
        SetUpError: the peer's network is not the one that the operator's flags name.
    """
    while True:
        for peer in swarm.bootstrap_peers():  # anybody may have dialed us meanwhile, and lead us to another network
            if peer.chain_id is None:
                continue
            try:
                document = await swarm.request(
                    peer.key, Method.GENESIS, b"", timeout_seconds=10, response_bytes_max=GENESIS_BYTES_MAX
                )
            except transport.RequestFailed as problem:
                log.warning("genesis not had", peer=peer.node_id[:12], reason=problem.reason)
                continue
            if bytes(chain_id_of(document)) != peer.chain_id:
                log.warning(
                    "genesis refused", peer=peer.node_id[:12], reason="it is not the one that the peer's HELLO names"
                )
                continue
            try:
                genesis = parse(document)
            except UserError as problem:
                log.warning("genesis refused", peer=peer.node_id[:12], reason=problem.message)
                continue
            await in_thread(check_flags, config, genesis)
            swarm.pin(transport.ChainId(genesis.chain_id))
            log.info("network pinned", network=genesis.chain_id.hex(), peer=peer.node_id[:12])
            return genesis
        await trio.sleep(texts.ASK_AGAIN_SECONDS if swarm.peers() else 0.1)


async def bring_first_model(swarm: transport.Swarm, blobs: Blobs, genesis: Genesis, log: Logger) -> bytes | None:
    """The bytes of M(0) where the network was refounded or imported it, in the same way; ``None`` where M(0) is drawn."""
    if genesis.first_model_is_drawn:
        return None
    length = Replica.bytes_of(genesis.model, genesis.training)
    await texts.bring(swarm, blobs, genesis.model_root, length, name="first model", log=log)
    return await in_thread(blobs.get, genesis.model_root)


def first_model(genesis: Genesis, data: bytes | None) -> Replica | None:
    """M(0): drawn, or from these bytes where the network was refounded or imported it (``None`` if they are none of a model's)."""
    if genesis.first_model_is_drawn:
        return Replica.initial(genesis.model, genesis.training, model_seed(genesis.nonce))
    try:
        return Replica.from_bytes(genesis.model, genesis.training, data or b"")
    except SnapshotError:
        return None
