"""The records of the vote log: each kind comes back as it went in, and what is none of them is said to be none."""

import pytest

import consensus
from p2pnode.vote_records import Announced, Decided, Moved, Signed, Silent, decode, encode
from tests.p2pnode.little import Chain


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain(4).grow(2)


def test_every_kind_comes_back_as_it_went_in(chain):
    block, certificate = chain.decided[1]
    record = consensus.Record(consensus.RecordKind.BLOCK, 2, 0, block.encode())
    for thing in (Signed(record), Decided(block, certificate), Silent(9), Moved(7)):
        assert decode(encode(thing)) == thing
    assert [thing.height for thing in (Signed(record), Decided(block, certificate), Silent(9))] == [2, 2, 9]


@pytest.mark.parametrize(
    "data",
    [b"", b"X" + bytes(40), b"S" + bytes(7), b"S" + bytes(9), b"M" + bytes(9), b"C" + bytes(50), b"V\x09" + bytes(12)],
)
def test_what_is_no_record_is_refused(data):
    with pytest.raises(consensus.Malformed):
        decode(data)


def test_a_decision_holds_a_certificate_of_commits(chain):
    block, certificate = chain.decided[0]
    other = consensus.ViewCertificate(1, 0, ())
    whole = encode(Decided(block, certificate))
    with pytest.raises(consensus.Malformed, match="of another kind"):
        decode(whole[: -len(certificate.encode())] + other.encode())
    assert not isinstance(decode(whole), Announced)
