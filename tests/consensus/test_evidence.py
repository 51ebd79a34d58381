"""Nobody is framed: evidence holds only for what its author really signed, and no honest node signs any of it."""

from dataclasses import replace

import pytest

from consensus import Committee, Digest, Evidence, EvidenceKind, Malformed, Purpose, check_evidence
from consensus.advance import evidence_problem
from consensus.evidence import EVIDENCE_BYTES_MAX, evidence_of
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import CHAIN_ID, contribution
from tests.consensus.bench import Bench

BENCH = Bench()
BLOCK, OTHER = BENCH.block(1, 1), BENCH.block(1, 2)


def pair(message):
    return message.statement(CHAIN_ID), message.signature


def proof(*said) -> Evidence:
    return evidence_of(said[0].author, *map(pair, said))


def problem(evidence: Evidence) -> str | None:
    return check_evidence(evidence, chain_id=CHAIN_ID, verify=BENCH.signatures.verify)


DOUBLES = {
    "double_proposal": (BENCH.proposal(1, 0, BLOCK), BENCH.proposal(1, 0, OTHER)),
    "double_prepare": (BENCH.prepare(2, 3, BLOCK), BENCH.prepare(2, 3, None)),
    "double_commit": (BENCH.commit(2, 3, BLOCK), BENCH.commit(2, 3, OTHER)),
    "double_contribution": (
        contribution(BENCH.signatures, 3, BENCH.state),
        contribution(BENCH.signatures, 3, BENCH.state, salt=b"x"),
    ),
    "amnesia": (BENCH.commit(2, 3, BLOCK), BENCH.prepare(2, 5, OTHER, 2)),
    "wrong_proposer": (BENCH.proposal(2, 0, BLOCK),),
}
SWAPPED = [
    # one author's key under another's statements, signatures exchanged, or one statement shown twice
    lambda e: replace(e, author=key(0)),
    lambda e: replace(e, signed=tuple((s, e.signed[0][1][::-1]) for s, _ in e.signed)),
    lambda e: replace(e, signed=tuple((s, g) for (s, _), (_, g) in zip(e.signed, reversed(e.signed), strict=True))),
]


@pytest.mark.parametrize("kind", DOUBLES)
def test_each_kind_in_one_form(kind: str) -> None:
    said = DOUBLES[kind]
    evidence = proof(*said)
    assert evidence == proof(*reversed(said)) == Evidence.decode(evidence.encode())
    assert (evidence.kind, evidence.height, evidence.view) == (kind, said[0].height, max(m.view for m in said))
    assert problem(evidence) is None
    assert len(evidence.encode()) <= EVIDENCE_BYTES_MAX
    assert set(DOUBLES) == set(EvidenceKind)


def test_two_valid_views_for_one_block_are_two_statements() -> None:
    assert problem(proof(BENCH.prepare(1, 3, BLOCK, 1), BENCH.prepare(1, 3, BLOCK, 2))) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (BENCH.prepare(1, 0, BLOCK), BENCH.prepare(1, 0, BLOCK)),
        (BENCH.prepare(1, 0, BLOCK), BENCH.prepare(1, 1, BLOCK)),
        (BENCH.prepare(1, 0, BLOCK), BENCH.commit(1, 0, BLOCK)),
        (BENCH.commit(1, 0, BLOCK), BENCH.commit(1, 0, BLOCK, height=2)),
        (BENCH.prepare(1, 0, BLOCK), BENCH.proposal(1, 0, OTHER)),
        (BENCH.status(1, 1), BENCH.status(1, 1, BENCH.prepared(0, BLOCK, (0, 1, 2)))),
        (
            contribution(BENCH.signatures, 3, BENCH.state),
            contribution(BENCH.signatures, 3, BENCH.state, purpose=Purpose.PROBE),
        ),
    ],
)
def test_what_an_honest_node_does_is_no_evidence(one, other) -> None:
    with pytest.raises(Malformed):
        proof(one, other)


AMNESIA = {
    # (view, block, valid view) of a PREPARE after COMMIT(view 3, BLOCK): what an honest node may say
    "of the same view": (3, OTHER, -1),
    "of an earlier view": (2, OTHER, -1),
    "of the locked block": (5, BLOCK, 1),
    "of nothing": (5, None, -1),
    "justified by the lock's view": (5, OTHER, 3),
    "justified by a later view": (5, OTHER, 4),
}


@pytest.mark.parametrize("what", AMNESIA)
def test_what_a_lock_allows_is_no_amnesia(what: str) -> None:
    with pytest.raises(Malformed):
        proof(BENCH.commit(2, 3, BLOCK), BENCH.prepare(2, *AMNESIA[what]))


def test_amnesia_needs_a_lock_of_the_same_height() -> None:
    with pytest.raises(Malformed):
        proof(BENCH.commit(2, 3, None), BENCH.prepare(2, 5, OTHER))
    with pytest.raises(Malformed):
        proof(BENCH.commit(2, 3, BLOCK, height=2), BENCH.prepare(2, 5, OTHER))
    later = proof(BENCH.commit(2, 3, BLOCK), BENCH.prepare(2, 4, OTHER))
    assert later.kind == "amnesia" and problem(later) is None


@pytest.mark.parametrize("kind", DOUBLES)
@pytest.mark.parametrize("swap", range(len(SWAPPED)))
def test_keys_and_signatures_cannot_be_swapped(kind: str, swap: int) -> None:
    framed = SWAPPED[swap](proof(*DOUBLES[kind]))
    if kind == "wrong_proposer" and swap == 2:  # one statement has nothing to be exchanged with
        assert framed == proof(*DOUBLES[kind])
    else:
        assert problem(framed) is not None


@pytest.mark.parametrize("kind", DOUBLES)
def test_statements_of_another_chain_prove_nothing(kind: str) -> None:
    evidence = proof(*DOUBLES[kind])
    elsewhere = check_evidence(evidence, chain_id=Digest(b"\1" * 32), verify=BENCH.signatures.verify)
    assert elsewhere == "statement of another chain"


def test_one_statement_is_evidence_of_a_proposal_only() -> None:
    for harmless in (BENCH.prepare(2, 0, BLOCK), BENCH.commit(2, 0, BLOCK), BENCH.status(2, 1)):
        with pytest.raises(Malformed):
            proof(harmless)
    with pytest.raises(Malformed):
        Evidence(key(1), ())
    with pytest.raises(Malformed):
        Evidence(key(1), tuple(sorted(map(pair, (BENCH.commit(1, 0, b) for b in (BLOCK, OTHER, None))))))


def test_a_proposal_in_turn_is_no_evidence_whoever_signed_it() -> None:
    membership = BENCH.state.membership  # of the genesis: key(1) proposes view 0 of height 1, key(2) view 1
    for author, view in ((1, 0), (2, 1), (1, 4)):
        said = proof(BENCH.proposal(author, view, BLOCK))
        assert evidence_problem(said, membership, height=1) == "evidence of a proposal in turn"
    assert evidence_problem(proof(BENCH.proposal(2, 0, BLOCK)), membership, height=1) is None


def test_whose_turn_it_was_is_told_as_long_as_the_committee_is_known() -> None:
    state, said = BENCH.state, proof(BENCH.proposal(2, 0, BLOCK))
    told = []
    for height in (1, 2, 3):
        told.append(evidence_problem(said, state.membership, height=height))
        block = BENCH.block_on(state)
        state = state.after(block, BENCH.committed(0, block, (0, 1, 2)))
    assert told == [None, None, "evidence about a turn of a committee that is not known any more"]


def test_whose_turn_it_was_is_told_by_the_committee_of_that_height() -> None:
    """Four members at height 8, five at height 9: n0 proposed in turn, by either; n4 never could at height 8."""
    four, five = (Committee.of(key(i) for i in range(n)) for n in (4, 5))
    membership = replace(BENCH.state.membership, previous=four, current=five, next=five)
    for height, committee in ((8, four), (9, five)):
        for author in range(5):
            for view in range(10):
                signed = BENCH.sign(replace(BENCH.proposal(author, view, BLOCK), height=height))
                told = evidence_problem(proof(signed), membership, height=9)
                assert (told is None) == (committee.proposer(height, view) != key(author))


def test_two_honest_authors_make_no_culprit() -> None:
    mine, theirs = BENCH.prepare(1, 0, BLOCK), BENCH.prepare(2, 0, OTHER)
    for author in (key(1), key(2)):
        assert problem(evidence_of(author, pair(mine), pair(theirs))) is not None
