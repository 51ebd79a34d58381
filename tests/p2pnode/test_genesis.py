"""The genesis: one form, one hash, and nothing that a stranger writes gets past `parse`."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.words import Words
from p2pnode import genesis as genesis_module
from p2pnode.errors import UserError
from p2pnode.genesis import Founder, Genesis, Refounded, TokenizerBlob, chain_id_of, parse
from tests.p2pnode.little import TEXT, identities, make_genesis

GENESIS = make_genesis(identities(3), addresses=("192.0.2.1:7337", "[2001:db8::1]:1", "node.example:65535"))
DOCUMENT = json.loads(GENESIS.to_bytes())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


def encoded(document) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def changed(*path, to):
    document = json.loads(GENESIS.to_bytes())
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return encoded(document)


def allowed(keys):
    return encoded({**DOCUMENT, "policy": "allowlist", "allowlist": keys})


def refounded(**changes):
    return {"network": "00" * 32, "height": 1, "block": "00" * 32, **changes}


def corpus(**changes):
    return {**DOCUMENT["corpus"], **changes}


def tokenized(**changes):
    tokenizer = {"bytes": 7, "digest": "00" * 32, **changes}
    return encoded({**DOCUMENT, "corpus": corpus(bytes=4000, word_bytes=4), "tokenizer": tokenizer})


def test_it_comes_back_as_it_was():
    assert parse(GENESIS.to_bytes()) == GENESIS
    assert GENESIS.chain_id == chain_id_of(GENESIS.to_bytes()) and len(GENESIS.chain_id) == 32


def test_every_field_makes_another_network():
    others = [
        replace(GENESIS, nonce=bytes(16)),
        replace(GENESIS, founders=GENESIS.founders[:1]),
        replace(GENESIS, corpus_digest=bytes(32)),
        replace(GENESIS, corpus_bytes=1),
        replace(GENESIS, model_root=bytes(32)),
        replace(GENESIS, policy="invite"),
        replace(GENESIS, probation_contributions=9),
        replace(GENESIS, round_seconds_max=9),
        replace(GENESIS, threshold_percent=80),
        replace(GENESIS, policy="allowlist", allowlist=(bytes(32), b"\1" * 32)),
        replace(GENESIS, refounded=Refounded(bytes(32), 7, bytes(32))),
        replace(GENESIS, imported=True),
        replace(GENESIS, words=Words(2, masked=True)),
        replace(GENESIS, corpus_bytes=4000, words=Words(4), tokenizer=TokenizerBlob(bytes(32), 7)),
    ]
    assert len({genesis.chain_id for genesis in [GENESIS, *others]}) == len(others) + 1
    for other in others:
        assert parse(other.to_bytes()) == other


def test_a_network_that_was_founded_before_a_field_was_there_is_the_same_network():
    of_the_network = (
        "policy probation_contributions round_seconds_max threshold_percent allowlist founders nonce protocol"
    )
    assert sorted(DOCUMENT) == sorted(
        [*of_the_network.split(), "corpus", "model", "model_root", "refounded", "training"]
    )
    assert sorted(DOCUMENT["corpus"]) == ["bytes", "digest"]


def test_a_first_model_that_is_not_drawn_is_kept_by_every_node():
    assert GENESIS.first_model_is_drawn and GENESIS.blobs == {GENESIS.corpus_digest}
    for given_model in (
        replace(GENESIS, imported=True),
        replace(GENESIS, refounded=Refounded(bytes(32), 7, bytes(32))),
    ):
        assert not given_model.first_model_is_drawn
        assert given_model.blobs == {GENESIS.corpus_digest, GENESIS.model_root}


def test_the_founders_are_the_first_committee():
    state = GENESIS.state()
    assert list(state.membership.current.members) == [founder.public_key for founder in GENESIS.founders]
    assert state.chain_id == GENESIS.chain_id and state.model_root == GENESIS.model_root and state.height == 0
    assert state.rules.admission == "open" and state.rules.members_max == genesis_module.MEMBERS_MAX
    assert state.membership.current.quorum() == 3  # of three
    keys = tuple(sorted([*(f.public_key for f in GENESIS.founders), b"\xff" * 32]))
    strict = replace(GENESIS, policy="allowlist", allowlist=keys, threshold_percent=100).state()
    assert strict.membership.permitted == keys and strict.membership.current.threshold_percent == 100


def test_the_largest_genesis_that_may_be_is_within_the_bound():
    most = [Founder(n.to_bytes(32, "big"), f"{'a' * 62}.{'b' * 62}.{'c' * 62}.{'d' * 60}:65535") for n in range(64)]
    keys = tuple(n.to_bytes(32, "big") for n in range(1024))
    genesis = replace(GENESIS, founders=tuple(most), policy="allowlist", allowlist=keys)
    assert parse(genesis.to_bytes()) == genesis


def test_there_is_no_float_in_it():
    assert b"." not in replace(GENESIS, founders=(Founder(bytes(32), ""),)).to_bytes().replace(b'"0.', b"").replace(
        b'"1.', b""
    )


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(changed("protocol", to=1), id="another protocol"),
        pytest.param(changed("nonce", to="00"), id="short nonce"),
        pytest.param(changed("nonce", to="zz" * 16), id="nonce that is no hex"),
        pytest.param(changed("nonce", to=GENESIS.nonce.hex().upper()), id="hex in capitals"),
        pytest.param(changed("founders", to=[]), id="no founders"),
        pytest.param(changed("founders", to=DOCUMENT["founders"][::-1]), id="founders out of order"),
        pytest.param(changed("founders", to=DOCUMENT["founders"][:1] * 2), id="a founder twice"),
        pytest.param(changed("founders", to={"a": 1}), id="founders that are no list"),
        pytest.param(changed("founders", 0, "address", to="nonsense"), id="an address that nobody can dial"),
        pytest.param(changed("founders", 0, "address", to="192.0.2.1:99999"), id="a port that is none"),
        pytest.param(changed("founders", 0, "address", to="[2001:0db8::1]:1"), id="an address in another form"),
        pytest.param(changed("founders", 0, "address", to="x" * 300), id="a long address"),
        pytest.param(changed("founders", 0, "address", to="\ud800:1"), id="half a character"),
        pytest.param(changed("policy", to="anarchy"), id="an unknown policy"),
        pytest.param(changed("policy", to=["open"]), id="a policy that is a list"),
        pytest.param(changed("threshold_percent", to=50), id="a threshold that lowers the quorum"),
        pytest.param(changed("threshold_percent", to=101), id="a threshold that nobody reaches"),
        pytest.param(changed("threshold_percent", to="80"), id="a threshold that is text"),
        pytest.param(changed("allowlist", to=["00" * 32]), id="an allowlist under another policy"),
        pytest.param(allowed(["11" * 32, "00" * 32]), id="an allowlist out of order"),
        pytest.param(allowed(["00" * 31]), id="an allowlist of something else"),
        pytest.param(allowed([f"{n:064x}" for n in range(1025)]), id="an allowlist beyond all bounds"),
        pytest.param(changed("refounded", to={}), id="refounded from nowhere"),
        pytest.param(changed("refounded", to=refounded(height=-1)), id="refounded from before the beginning"),
        pytest.param(changed("refounded", to=refounded(network="00")), id="refounded from no network"),
        pytest.param(changed("imported", to=False), id="imported where it is not"),
        pytest.param(changed("imported", to=1), id="imported that is a number"),
        pytest.param(
            encoded({**DOCUMENT, "imported": True, "refounded": refounded()}), id="a first model from two places"
        ),
        pytest.param(changed("corpus", "bytes", to=0), id="no text"),
        pytest.param(changed("corpus", "bytes", to=1 << 40), id="more text than anybody holds"),
        pytest.param(changed("corpus", "bytes", to=True), id="a length that is true"),
        pytest.param(changed("corpus", "bytes", to=10.0), id="a length that is a float"),
        pytest.param(changed("corpus", "word_bytes", to=1), id="bytes by another name"),
        pytest.param(changed("corpus", "word_bytes", to=3), id="words of three bytes"),
        pytest.param(changed("corpus", "word_bytes", to=2.0), id="words whose width is a float"),
        pytest.param(changed("corpus", "masked", to=True), id="bytes with a mark"),
        pytest.param(changed("corpus", to=corpus(bytes=len(TEXT) | 1, word_bytes=2)), id="half a word"),
        pytest.param(changed("corpus", to=corpus(word_bytes=2, masked=False)), id="masked where it is not"),
        pytest.param(changed("tokenizer", to={"bytes": 7, "digest": "00" * 32}), id="a tokenizer, and bytes"),
        pytest.param(tokenized(bytes=0), id="an empty tokenizer"),
        pytest.param(tokenized(bytes=1 << 30), id="a tokenizer beyond all bounds"),
        pytest.param(tokenized(digest="00"), id="a tokenizer without a name"),
        pytest.param(changed("round_seconds_max", to=0), id="no time"),
        pytest.param(changed("probation_contributions", to=0), id="no probation"),
        pytest.param(changed("model", "width", to=10**9), id="a model beyond all bounds"),
        pytest.param(changed("model", "extra", to=1), id="an unknown field of the model"),
        pytest.param(changed("training", "codec", to="none"), id="an unknown codec"),
        pytest.param(changed("extra", to=1), id="an unknown field"),
        pytest.param(GENESIS.to_bytes() + b" ", id="a space behind it"),
        pytest.param(json.dumps(DOCUMENT).encode(), id="another form of the same"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"[" * 30_000, id="deep"),
        pytest.param(b"\xff\xfe", id="no text at all"),
        pytest.param(b'{"protocol":' + b"9" * 10_000 + b"}", id="a huge number"),
        pytest.param(b" " * (genesis_module.GENESIS_BYTES_MAX + 1), id="too long"),
    ],
)
def test_what_is_not_a_genesis_is_refused_in_one_line(document):
    with pytest.raises(UserError, match="the genesis cannot be used") as caught:
        parse(document)
    assert caught.value.hint and len(caught.value.message) < 400


@given(st.binary(max_size=200) | JSON.map(encoded))
def test_made_up_bytes_are_refused_and_nothing_worse(document):
    with pytest.raises(UserError):
        parse(document)


@given(st.sampled_from(sorted(DOCUMENT)), JSON)
def test_a_field_of_anything_is_taken_or_refused(field, value):
    document = {**DOCUMENT, field: value}
    try:
        genesis = parse(encoded(document))
    except UserError:
        return
    assert isinstance(genesis, Genesis) and genesis.to_bytes() == encoded(document)


@given(st.sampled_from(["model", "training", "corpus"]), st.data())
def test_so_is_a_field_within_a_field(part, data):
    field = data.draw(st.sampled_from(sorted(DOCUMENT[part])))
    document = {**DOCUMENT, part: {**DOCUMENT[part], field: data.draw(JSON)}}
    try:
        parse(encoded(document))
    except UserError:
        pass
