"""One bad entry rejects the whole certificate, whatever else is in it."""

from dataclasses import replace

import pytest

from consensus import NIL, Committee, Digest, Malformed, check_certificate, decode_certificate
from consensus.certificate import Certificate
from consensus.limits import MEMBERS_MAX
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import CHAIN_ID
from tests.consensus.bench import Bench

BENCH = Bench()
BLOCK = BENCH.block(1, 0, 1)
COMMITTEE = BENCH.state.membership.current


def problem(certificate: Certificate, committee: Committee = COMMITTEE) -> str | None:
    return check_certificate(certificate, committee, chain_id=CHAIN_ID, verify=BENCH.signatures.verify)


GOOD: list[Certificate] = [
    BENCH.prepared(0, BLOCK, (0, 1, 2)),
    BENCH.prepared(3, BLOCK, (0, 1, 2, 3), valid_view=1),
    BENCH.committed(0, BLOCK, (1, 2, 3)),
    BENCH.view_ends(0, (0, 2, 3)),
]


@pytest.mark.parametrize("certificate", GOOD)
def test_good_ones_hold_and_survive_the_wire(certificate: Certificate) -> None:
    assert problem(certificate) is None
    assert decode_certificate(certificate.encode()) == certificate


def test_a_view_certificate_may_hold_different_values() -> None:
    votes = [BENCH.commit(0, 0, None), BENCH.commit(1, 0, BLOCK), BENCH.commit(2, 0, None)]
    mixed = replace(BENCH.view_ends(0, ()), entries=tuple((v.author, v.block_hash, v.signature) for v in votes))
    assert problem(mixed) is None


def test_every_defect_rejects() -> None:
    good = BENCH.committed(0, BLOCK, (0, 1, 2))
    a, b, c = good.signers
    stranger = BENCH.committed(0, BLOCK, (0, 1, 9)).signers
    elsewhere = BENCH.committed(1, BLOCK, (2,)).signers[0]
    defects = {
        "too few": (a, b),
        "duplicate": (a, b, b),
        "duplicate beyond a quorum": (a, b, c, c),
        "out of order": (b, a, c),
        "foreign": stranger,
        "foreign beyond a quorum": (a, b, c, stranger[2]),
        "bad signature": (a, b, (c[0], a[1])),
        "bad signature beyond a quorum": (a, b, c, (key(3), a[1])),
        "signature of another view": (a, b, elsewhere),
        "empty": (),
    }
    assert problem(good) is None
    for name, signers in defects.items():
        assert problem(replace(good, signers=tuple(signers))) is not None, name


def test_other_slots_and_chains_do_not_pass() -> None:
    good = BENCH.prepared(2, BLOCK, (0, 1, 2), valid_view=1)
    for other in (
        replace(good, height=2),
        replace(good, view=3),
        replace(good, valid_view=0),
        replace(good, valid_view=2),
        replace(good, block_hash=BENCH.block(1, 3).hash),
        replace(good, block_hash=NIL),
    ):
        assert problem(other) is not None
    elsewhere = Digest(b"\5" * 32)
    assert check_certificate(good, COMMITTEE, chain_id=elsewhere, verify=BENCH.signatures.verify) is not None


def test_a_quorum_of_nil_is_no_certificate() -> None:
    signers = tuple((v.author, v.signature) for v in (BENCH.commit(i, 0, None) for i in (0, 1, 2)))
    assert problem(replace(BENCH.committed(0, BLOCK, ()), block_hash=NIL, signers=signers)) == "a certificate for NIL"


def test_it_is_checked_with_the_committee_of_its_height() -> None:
    good = BENCH.committed(0, BLOCK, (0, 1, 2))
    assert problem(good, Committee.of(key(i) for i in range(1, 5))) is not None
    assert problem(good, Committee.of(key(i) for i in range(5))) is not None  # three of five are no quorum


def test_prepares_do_not_pass_as_commits() -> None:
    prepared, committed = BENCH.prepared(0, BLOCK, (0, 1, 2)), BENCH.committed(0, BLOCK, (0, 1, 2))
    assert problem(replace(committed, signers=prepared.signers)) is not None
    assert problem(replace(prepared, signers=committed.signers)) is not None


def test_the_encoding_is_bounded_and_strict() -> None:
    data = GOOD[2].encode()
    for wrong in (b"", data[:-1], data + b"\0", b"\7" + data[1:]):
        with pytest.raises(Malformed):
            decode_certificate(wrong)
    crowded = replace(BENCH.committed(0, BLOCK, ()), signers=GOOD[2].signers * MEMBERS_MAX)
    with pytest.raises(Malformed):
        decode_certificate(crowded.encode())
