"""Nobody is framed: evidence holds only for two different statements of one slot, both really signed by its author."""

from dataclasses import replace

import pytest

from consensus import Digest, Evidence, Malformed, Purpose, check_evidence
from consensus.evidence import evidence_of
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import CHAIN_ID, contribution
from tests.consensus.bench import Bench

BENCH = Bench()
BLOCK, OTHER = BENCH.block(1, 1), BENCH.block(1, 2)


def pair(message):
    return message.statement(CHAIN_ID), message.signature


def proof(one, other) -> Evidence:
    return evidence_of(one.author, pair(one), pair(other))


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
}


@pytest.mark.parametrize("kind", DOUBLES)
def test_each_kind_in_one_form(kind: str) -> None:
    one, other = DOUBLES[kind]
    evidence = proof(one, other)
    assert evidence == proof(other, one) == Evidence.decode(evidence.encode())
    assert (evidence.kind, evidence.height, evidence.view) == (kind, one.height, one.view)
    assert problem(evidence) is None


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


def test_signatures_keys_and_chains_cannot_be_swapped() -> None:
    evidence = proof(*DOUBLES["double_prepare"])
    first, second = evidence.signed
    for framed in (
        replace(evidence, author=key(3)),
        replace(evidence, signed=(first, (second[0], first[1]))),
        replace(evidence, signed=((first[0], second[1]), (second[0], first[1]))),
    ):
        assert problem(framed) is not None
    elsewhere = check_evidence(evidence, chain_id=Digest(b"\1" * 32), verify=BENCH.signatures.verify)
    assert elsewhere == "statement of another chain"


def test_two_honest_authors_make_no_culprit() -> None:
    mine, theirs = BENCH.prepare(1, 0, BLOCK), BENCH.prepare(2, 0, OTHER)
    for author in (key(1), key(2)):
        assert problem(evidence_of(author, pair(mine), pair(theirs))) is not None
