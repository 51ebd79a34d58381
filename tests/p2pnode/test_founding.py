"""How a home becomes part of a network: by founding, by a file, by asking; and what is refused in one line each."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

import transport
from model.config import ModelConfig
from p2pnode import founding
from p2pnode.config import Config, Endpoint
from p2pnode.errors import SetUpError
from p2pnode.founding import (
    check_flags,
    identity_of,
    initialise,
    open_blobs,
    parse_founder,
    read_genesis,
    write_genesis,
)
from p2pnode.genesis import parse
from p2pnode.home import Home
from p2pnode.tokens import Token, token_text
from p2pnode.wire import Method
from tests.p2pnode.little import MODEL, TEXT, Chain, identities, make_genesis, size_file, text_file, until
from tests.p2pnode.rig import Joiner, Peer

CHAIN = Chain(4).grow(1)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def settings(home: Home, given: tuple[str, ...] = (), **values: Any) -> Config:
    return Config(home=home.path, **values, origins={name: f"--{name}" for name in given})


@pytest.fixture
def founder(home, tmp_path):
    """The settings of a founder of a small network."""
    return settings(home, size=str(size_file(tmp_path)), data=(text_file(tmp_path),))


# --- founding ---------------------------------------------------------------------------------------------------------------------------


def test_a_founder_has_key_genesis_and_text(home, founder):
    genesis = initialise(home, founder)
    assert home.initialised and read_genesis(home.genesis) == genesis
    assert genesis.model == MODEL and genesis.policy == "open"
    assert [f.public_key for f in genesis.founders] == [identity_of(home).public_key]
    assert open_blobs(home).get(genesis.corpus_digest) == TEXT
    assert home.key.stat().st_mode & 0o777 == 0o600


def test_a_text_that_nobody_else_has_is_on_the_disk_before_the_genesis_is(home, founder, monkeypatch):
    durable = []
    make = founding.Blobs.make_durable
    monkeypatch.setattr(
        founding.Blobs, "make_durable", lambda self, digests: (durable.extend(digests), make(self, digests))
    )
    write = founding.write_genesis
    monkeypatch.setattr(founding, "write_genesis", lambda *args: (durable.append("genesis"), write(*args)))
    genesis = initialise(home, founder)
    assert durable == [genesis.corpus_digest, "genesis"]


def test_a_home_is_founded_once(home, founder):
    before = initialise(home, founder)
    with pytest.raises(SetUpError, match="belongs to a network already"):
        initialise(home, founder)
    assert read_genesis(home.genesis) == before


def test_a_seed_makes_the_same_model_and_no_seed_makes_another_network(tmp_path, founder):
    made = [initialise(Home(tmp_path / f"home{n}"), founder, seed=seed) for n, seed in enumerate([7, 7, 8, None, None])]
    roots = [genesis.model_root for genesis in made]
    assert roots[0] == roots[1] and len(set(roots)) == 4


def test_several_found_together(home, founder, tmp_path):
    other = identities(1)[0]
    genesis = initialise(home, founder, founders=[f"{other.public_key.hex()}@192.0.2.7:7337"])
    keys = [f.public_key for f in genesis.founders]
    assert keys == sorted([identity_of(home).public_key, other.public_key])
    assert {f.address for f in genesis.founders} == {"192.0.2.7:7337", str(founder.listen)}
    theirs = Home(tmp_path / "theirs")
    assert initialise(theirs, settings(theirs), genesis_file=home.genesis) == genesis


def test_beyond_loopback_a_network_is_by_invitation_unless_asked(tmp_path, founder):
    wide = replace(founder, listen=Endpoint("0.0.0.0", 7337))
    assert initialise(Home(tmp_path / "a"), wide).policy == "invite"
    assert initialise(Home(tmp_path / "b"), replace(wide, policy="open")).policy == "open"


def test_a_network_trains_as_its_founder_says(home, tmp_path, founder):
    recipe = tmp_path / "training.json"
    recipe.write_text('{"optimizer": "lion", "inner_rate": "0.0003"}')
    founded = initialise(home, replace(founder, training=recipe))
    assert (founded.training.optimizer, founded.training.inner_rate, founded.training.batch) == ("lion", "0.0003", 8)
    assert parse(founded.to_bytes()) == founded
    joins = settings(home, ("training",), training=recipe)
    check_flags(joins, founded)
    recipe.write_text('{"optimizer": "lion"}')
    with pytest.raises(SetUpError, match=r"training.json \(inner_rate 0.001\): the network has inner_rate 0.0003"):
        check_flags(joins, founded)


def test_a_size_has_a_variant_with_experts(tmp_path, founder):
    founded = initialise(Home(tmp_path / "a"), replace(founder, size="tiny", moe=True))
    assert founded.model == ModelConfig.named("tiny-moe") and founded.model.experts == 8
    assert parse(founded.to_bytes()) == founded


@pytest.mark.parametrize(
    "text",
    ["", "@", "00@x:1", "zz" * 32 + "@192.0.2.1:1", "00" * 32, "00" * 32 + "@nowhere", "00" * 32 + "@192.0.2.1:99999"],
)
def test_what_is_no_founder_is_refused(text):
    with pytest.raises(SetUpError, match="not PUBLICKEY@HOST:PORT"):
        parse_founder(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "enormous"}, "no size named"),
        ({"size": "enormous", "moe": True}, "no variant of enormous with experts"),
        ({"training": Path("nowhere.json")}, "no training named 'nowhere.json'"),
        ({"data": (Path("nowhere.txt"),)}, "nowhere.txt"),
        ({"data": (Path("nothing/*.txt"),)}, "nothing matches"),
        ({"data": ("synthetic:much",)}, "synthetic:much"),
        ({"tokenizer": Path("nowhere.json")}, "nowhere.json"),
        ({"tokenizer": "no_base"}, "no tokenizer 'no_base'"),
    ],
)
def test_what_nobody_can_found_with_is_one_line(home, founder, changes, message):
    with pytest.raises(SetUpError, match=message) as caught:
        initialise(home, replace(founder, **changes))
    assert caught.value.hint and not home.initialised


def test_a_text_that_is_too_short_is_one_line(home, founder, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("too short to learn from")
    with pytest.raises(SetUpError):
        initialise(home, replace(founder, data=(short,)))
    assert not home.initialised


# --- files --------------------------------------------------------------------------------------------------------------------------------


def test_a_key_that_others_can_read_is_refused(home):
    home.create()
    identity_of(home)
    home.key.chmod(0o644)
    with pytest.raises(SetUpError, match="others can read") as caught:
        identity_of(home)
    assert caught.value.hint.startswith("chmod 600")


def test_a_damaged_key_is_refused_and_never_replaced(home):
    home.create()
    home.key.write_bytes(b"\xff\x00")
    home.key.chmod(0o600)
    with pytest.raises(SetUpError, match="damaged"):
        identity_of(home)
    assert home.key.read_bytes() == b"\xff\x00"


@pytest.mark.parametrize("content", [None, b"", b"{}", b"x" * 100_000])
def test_what_is_no_genesis_file_is_one_line(tmp_path, content):
    path = tmp_path / "genesis.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SetUpError, match=r"genesis\.json") as caught:
        read_genesis(path)
    assert caught.value.hint


def test_a_text_of_another_network_is_not_kept(home, tmp_path):
    genesis_file = tmp_path / "their.json"
    genesis_file.write_bytes(CHAIN.genesis.to_bytes())
    other = tmp_path / "other.txt"
    other.write_bytes(TEXT + b"more")
    with pytest.raises(SetUpError, match="not this network's text"):
        initialise(home, settings(home, ("data",), data=(other,)), genesis_file=genesis_file)
    assert not home.initialised
    initialise(home, settings(home, ("data",), data=(text_file(tmp_path),)), genesis_file=genesis_file)
    assert open_blobs(home).get(CHAIN.genesis.corpus_digest) == TEXT


def test_flags_that_differ_from_the_network_are_refused_with_both_values(home, tmp_path):
    genesis = CHAIN.genesis
    check_flags(settings(home, ("size", "data"), size=str(size_file(tmp_path)), data=(text_file(tmp_path),)), genesis)
    check_flags(settings(home, size="tiny", policy="invite"), genesis)  # not given, so not compared
    for flag, value, held in [
        ("network", "00" * 32, genesis.chain_id.hex()),
        ("size", "tiny", "a model of"),
        ("moe", True, "a model of"),
        ("policy", "invite", "open"),
        ("data", (Path(__file__),), "text"),
    ]:
        with pytest.raises(SetUpError, match="--size tiny --moe" if flag == "moe" else f"--{flag}") as caught:
            check_flags(settings(home, (flag,), **{flag: value}), genesis)
        assert held in caught.value.message and "leave" in caught.value.hint


# --- asking -------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def founders(tmp_path, nursery):
    """Two peers that know each other's network."""
    found = [Peer(tmp_path / f"peer{place}", CHAIN, heights=1, seed=90 + place) for place in range(2)]
    for peer in found:
        await nursery.start(peer.run, ())
    return found


async def test_a_joiner_learns_and_pins_the_network(tmp_path, nursery, founders):
    me = Joiner(tmp_path, founders[0])
    await nursery.start(me.swarm.run)
    genesis = await founding.join(me.swarm, settings(me.home), me.log)
    assert genesis == CHAIN.genesis and me.swarm.chain_id == genesis.chain_id


async def test_a_genesis_that_is_not_what_hello_named_is_refused_and_another_peer_is_asked(tmp_path, nursery, founders):
    async def lie(_: bytes) -> bytes:
        return make_genesis(identities(2)).to_bytes()

    founders[0].answers[Method.GENESIS] = lie
    me = Joiner(tmp_path, founders[0])
    await nursery.start(me.swarm.run)
    async with trio.open_nursery() as joining:
        joining.start_soon(founding.join, me.swarm, settings(me.home), me.log)
        await until(lambda: me.log.said("genesis refused"))
        assert me.swarm.chain_id is None
        del founders[0].answers[Method.GENESIS]
    assert me.swarm.chain_id == CHAIN.genesis.chain_id


async def test_a_genesis_of_the_right_hash_that_is_none_ends_nothing(tmp_path, nursery):
    """Whoever makes up a network makes up its hash as well."""
    document = b"no genesis at all"

    class MadeUp:
        chain_id = founding.chain_id_of(document)

    liar = Peer(tmp_path / "liar", CHAIN, seed=93)

    async def lie(_: bytes) -> bytes:
        return document

    liar.answers[Method.GENESIS] = lie
    await nursery.start(liar.run, ())
    liar.swarm.pin(MadeUp.chain_id)
    me = Joiner(tmp_path, liar)
    await nursery.start(me.swarm.run)
    async with trio.open_nursery() as joining:
        joining.start_soon(founding.join, me.swarm, settings(me.home), me.log)
        await until(lambda: me.log.said("genesis refused"))
        joining.cancel_scope.cancel()
    assert me.swarm.chain_id is None


async def test_the_network_that_the_operator_named_is_the_only_one(tmp_path, nursery, founders):
    me = Joiner(tmp_path, founders[0])
    await nursery.start(me.swarm.run)
    with pytest.raises(SetUpError, match="--network 0000"):
        await founding.join(me.swarm, settings(me.home, ("network",), network="00" * 32), me.log)
    assert me.swarm.chain_id is None


async def test_a_peer_that_is_still_starting_is_asked_again(tmp_path, nursery, founders):
    asked = []

    async def later(body: bytes) -> bytes:
        asked.append(body)
        if len(asked) == 1:
            raise transport.RequestRefused("this node is still starting")
        return CHAIN.genesis.to_bytes()

    founders[0].answers[Method.GENESIS] = later
    me = Joiner(tmp_path, founders[0])
    await nursery.start(me.swarm.run)
    assert await founding.join(me.swarm, settings(me.home), me.log) == CHAIN.genesis
    assert len(asked) == 2 and me.log.said("genesis not had")


def test_a_genesis_is_written_whole(home):
    home.create()
    write_genesis(home, CHAIN.genesis)
    assert parse(home.genesis.read_bytes()) == CHAIN.genesis
    assert not home.genesis.with_suffix(".part").exists()


# --- who may join -------------------------------------------------------------------------------------------------------------------------


def test_the_genesis_says_who_may_join_and_how_many_must_agree(home, founder):
    key = identities(2)[1].public_key
    listed = replace(founder, policy="allowlist", allow=(key.hex(),), threshold=80)
    genesis = initialise(home, listed)
    assert set(genesis.allowlist) == {key, identity_of(home).public_key}  # a founder may come back
    assert (genesis.policy, genesis.threshold_percent) == ("allowlist", 80)
    check_flags(settings(home, ("threshold", "allow"), threshold=80, allow=(key.hex(),)), genesis)
    for flag, value, held in [("threshold", 90, "80"), ("allow", ("00" * 32,), "a list of 2")]:
        with pytest.raises(SetUpError, match=f"--{flag}") as caught:
            check_flags(settings(home, (flag,), **{flag: value}), genesis)
        assert held in caught.value.message


def test_a_token_is_for_one_network_and_one_policy(home):
    genesis = make_genesis(identities(2), policy="invite")

    def token(network: bytes) -> str:
        return token_text(Token(network, bytes(32), 7, bytes(32), bytes(64)))

    check_flags(settings(home, invite=token(genesis.chain_id)), genesis)
    with pytest.raises(SetUpError, match="the token is for network 0000000000000000, this is"):
        check_flags(settings(home, invite=token(bytes(32))), genesis)
    with pytest.raises(SetUpError, match="policy is open, which asks no invitation"):
        check_flags(settings(home, invite=token(CHAIN.genesis.chain_id)), CHAIN.genesis)
