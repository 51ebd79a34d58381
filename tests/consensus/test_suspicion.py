"""Proofs that wait for a block: what is kept, in what order it is offered, and that strangers cannot crowd out members."""

from dataclasses import replace

from consensus import Commit, Evidence, PublicKey, check_block
from consensus.evidence import evidence_of
from consensus.limits import EVIDENCE_PENDING_MAX, EVIDENCE_PER_BLOCK_MAX
from consensus.suspicion import Suspicion
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import CHAIN_ID
from tests.consensus.bench import Bench


def double(bench: Bench, author: bytes, height: int = 1) -> Evidence:
    names = [bytes([n]) * 32 for n in (1, 2)]
    votes = [bench.sign(Commit(PublicKey(author), height, 0, name, b"")) for name in names]
    return evidence_of(PublicKey(author), *((vote.statement(CHAIN_ID), vote.signature) for vote in votes))


def crowded(count: int) -> tuple[Bench, list[bytes]]:
    """A bench whose chain knows so many candidates, all with smaller keys than any member."""
    bench = Bench()
    crowd = [b"\0" + i.to_bytes(31, "big") for i in range(count)]
    accepted = tuple((PublicKey(author), 1) for author in crowd)
    bench.state = replace(bench.state, membership=replace(bench.state.membership, accepted=accepted))
    return bench, crowd


def test_each_kind_and_author_once() -> None:
    bench, suspicion = Bench(), Suspicion()
    proof = double(bench, key(1))
    assert suspicion.add(proof, bench.state) and not suspicion.add(proof, bench.state)
    assert not suspicion.add(double(bench, key(9)), bench.state)  # a stranger
    assert not suspicion.add(double(bench, key(2), height=4), bench.state)  # of the future
    assert suspicion.pending() == suspicion.for_next_block(bench.state) == (proof,)


def test_members_come_before_a_crowd_of_strangers() -> None:
    bench, crowd = crowded(EVIDENCE_PENDING_MAX + 3)
    suspicion = Suspicion()
    added = [suspicion.add(double(bench, author), bench.state) for author in crowd]
    assert added.count(True) == len(suspicion.pending()) == EVIDENCE_PENDING_MAX
    for member in (3, 1):
        assert suspicion.add(double(bench, key(member)), bench.state)
    assert len(suspicion.pending()) == EVIDENCE_PENDING_MAX
    offered = suspicion.for_next_block(bench.state)
    assert len(offered) == EVIDENCE_PER_BLOCK_MAX and {key(1), key(3)} <= {e.author for e in offered}
    block = bench.block_on(bench.state, evidence=offered)
    assert check_block(block, bench.state, bench.signatures.verify) is None


def test_what_the_chain_holds_is_forgotten() -> None:
    bench, suspicion = Bench(), Suspicion()
    suspicion.add(double(bench, key(1)), bench.state)
    suspicion.add(double(bench, key(2)), bench.state)
    block = bench.block_on(bench.state, evidence=(double(bench, key(1)),))
    suspicion.moved_to(bench.state.after(block, bench.committed(0, block, (0, 2, 3))))
    assert [e.author for e in suspicion.pending()] == [key(2)]
