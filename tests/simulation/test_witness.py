"""Each invariant fires when it is broken: a witness that cannot be alarmed proves nothing (witness.py, auditor.py, people.py, memory.py)."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from consensus import (
    NIL,
    Block,
    BlockTemplate,
    Commit,
    CommitCertificate,
    Digest,
    Engine,
    Evidence,
    Prepare,
    PrepareCertificate,
    Record,
    Signature,
)
from consensus.evidence import evidence_of
from consensus.record import record_of_block, record_of_certificate, record_of_vote
from consensus.votes import commit_statement
from p2pnode.simulation import auditor, memory, people, watch, world
from p2pnode.simulation.forgery import SIGNATURES, commit, prepare
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import CHAIN_ID, block_on, contribution, genesis
from p2pnode.simulation.options import Options
from p2pnode.simulation.witness import INVARIANTS, Violation, Witness

STATE = genesis(4)
ALARMS: dict[str, Callable[[], object]] = {}
assert auditor and memory and people and watch


def alarm(name: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    def register(act: Callable[[], object]) -> Callable[[], object]:
        ALARMS[f"{name} {act.__name__}"] = act
        return act

    return register


@pytest.mark.parametrize("name", ALARMS)
def test_it_fires(name: str) -> None:
    with pytest.raises(Violation, match=f"^{name.split(maxsplit=1)[0]}:"):
        ALARMS[name]()


def test_every_invariant_has_an_alarm() -> None:
    """I14 is the equality of traces (test_world.py)."""
    assert set(INVARIANTS) - {name.split()[0] for name in ALARMS} == {"I14"}


def test_what_is_right_alarms_nobody() -> None:
    witness, block = a_witness(), a_block()
    for i in range(3):
        vote = prepare(i, 1, 0, block.hash, -1)
        logs(witness, i, record_of_block(block, view=0), record_of_vote(vote, chain_id=CHAIN_ID))
        witness.said(key(i), vote)
    for i in range(3):
        decided = commit(i, 1, 0, block.hash)
        logs(witness, i, record_of_certificate(prepared(block)), record_of_vote(decided, chain_id=CHAIN_ID))
        witness.said(key(i), decided)
        witness.decided(key(i), block, certificate(block))
    witness.fork_names_culprits()
    witness.same_state(STATE.after(block, certificate(block)))


# --- pieces --------------------------------------------------------------------------------------------------------------------


def a_witness(*, tolerated: bool = True) -> Witness:
    return Witness([key(i) for i in range(3)], SIGNATURES, STATE, f=tolerated)


def a_block(salt: bytes = b"") -> Block:
    return block_on(BlockTemplate(STATE, key(1)), [contribution(SIGNATURES, 1, STATE, salt=salt)])


def certificate(block: Block, *, signers: tuple[int, ...] = (0, 1, 2), view: int = 0) -> CommitCertificate:
    statement = commit_statement(CHAIN_ID, block.height, view, block.hash)
    signed = tuple((key(i), SIGNATURES.signer(key(i))(statement)) for i in signers)
    return CommitCertificate(block.height, view, block.hash, signed)


def prepared(block: Block) -> PrepareCertificate:
    votes = [prepare(i, 1, 0, block.hash, -1) for i in range(3)]
    return PrepareCertificate(1, 0, block.hash, -1, tuple((vote.author, vote.signature) for vote in votes))


def logs(witness: Witness, i: int, *records: Record) -> None:
    for record in records:
        witness.logged(key(i), record)


def says(witness: Witness, vote: Prepare | Commit, *things: Record) -> None:
    witness.logged(vote.author, record_of_vote(vote, chain_id=CHAIN_ID))
    for record in things:
        witness.logged(vote.author, record)
    witness.said(vote.author, vote)


def an_engine() -> Engine:
    return Engine(me=key(0), sign=SIGNATURES.signer(key(0)), verify=SIGNATURES.verify, state=STATE)


# --- alarms --------------------------------------------------------------------------------------------------------------------


@alarm("I1")
def two_blocks_of_one_height() -> None:
    witness, one, other = a_witness(), a_block(), a_block(b"other")
    witness.decided(key(0), one, certificate(one))
    witness.decided(key(1), other, certificate(other))


@alarm("I2")
def a_height_that_is_left_out() -> None:
    witness, block = a_witness(), a_block()
    after = STATE.after(block, certificate(block))
    above = block_on(BlockTemplate(after, key(1)), [contribution(SIGNATURES, 1, after)])
    witness.decided(key(0), above, certificate(above))


@alarm("I2")
def a_root_that_nobody_can_reproduce() -> None:
    listed = [contribution(SIGNATURES, 1, STATE)]
    wrong = block_on(BlockTemplate(STATE, key(1)), listed, root=Digest(b"\1" * 32))
    a_witness().decided(key(0), wrong, certificate(wrong))


@alarm("I3")
def a_block_that_is_not_valid() -> None:
    block = a_block()
    listed = tuple(replace(c, signature=Signature(bytes(64))) for c in block.contributions)
    from consensus.block import contributions_hash

    header = replace(block.header, contributions_hash=contributions_hash(listed))
    unsigned = replace(block, header=header, contributions=listed)
    a_witness().valid(unsigned, STATE)


@alarm("I3")
def a_block_that_nobody_holds() -> None:
    witness, block = a_witness(), a_block()
    witness.decided(key(0), block, certificate(block))
    witness.retrievable([[]])


@alarm("I4")
def a_decision_by_two() -> None:
    block = a_block()
    a_witness().decided(key(0), block, certificate(block, signers=(0, 1)))


@alarm("I4")
def a_decision_of_another_block() -> None:
    a_witness().decided(key(0), a_block(), certificate(a_block(b"other")))


@alarm("I5")
def one_slot_signed_twice() -> None:
    witness = a_witness()
    says(witness, prepare(0, 1, 0, NIL, -1))
    block = a_block()
    says(witness, prepare(0, 1, 0, block.hash, -1), record_of_block(block, view=0))


@alarm("I5")
def a_vote_of_a_stranger() -> None:
    witness = Witness([key(9)], SIGNATURES, STATE)
    says(witness, prepare(9, 1, 0, NIL, -1))


@alarm("I6")
def a_vote_that_is_not_logged() -> None:
    a_witness().said(key(0), prepare(0, 1, 0, NIL, -1))


@alarm("I6")
def a_prepare_whose_block_is_not_durable() -> None:
    says(a_witness(), prepare(0, 1, 0, a_block().hash, -1))


@alarm("I6")
def a_record_that_did_not_survive() -> None:
    witness, vote = a_witness(), prepare(0, 1, 0, NIL, -1)
    says(witness, vote)
    witness.survived(key(0), [])
    witness.said(key(0), vote)


@alarm("I7")
def a_prepare_against_the_lock() -> None:
    witness, block, other = a_witness(), a_block(), a_block(b"other")
    durable = (record_of_block(block, view=0), record_of_block(other, view=0))
    for i in range(3):
        says(witness, prepare(i, 1, 0, block.hash, -1), *durable)
    says(witness, commit(0, 1, 0, block.hash), *durable, record_of_certificate(prepared(block)))
    says(witness, prepare(0, 1, 1, other.hash, -1), *durable)


@alarm("I7")
def a_commit_that_rests_on_nothing() -> None:
    block = a_block()
    says(
        a_witness(),
        commit(0, 1, 0, block.hash),
        record_of_block(block, view=0),
        record_of_certificate(prepared(block)),
    )


def double(author: int) -> Evidence:
    votes = [commit(author, 1, 0, name) for name in (NIL, Digest(b"\1" * 32))]
    return evidence_of(key(author), *((vote.statement(CHAIN_ID), vote.signature) for vote in votes))


@alarm("I8")
def an_accusation_of_somebody_honest() -> None:
    a_witness().accused(double(0))


@alarm("I8")
def an_accusation_that_proves_nothing() -> None:
    evidence = double(3)
    signed = tuple((statement, Signature(bytes(64))) for statement, _ in evidence.signed)
    a_witness().accused(replace(evidence, signed=signed))


@alarm("I8")
def an_honest_node_that_the_auditor_convicts() -> None:
    witness = a_witness()
    witness.auditor.saw(commit(0, 1, 0, a_block().hash))
    witness.auditor.saw(prepare(0, 1, 1, a_block(b"other").hash, -1))
    witness.auditor_names_nobody_honest()


@alarm("I9")
def a_fork_without_culprits() -> None:
    witness, one, other = a_witness(tolerated=False), a_block(), a_block(b"other")
    witness.decided(key(0), one, certificate(one))
    witness.decided(key(1), other, certificate(other))
    witness.fork_names_culprits()


@alarm("I9")
def a_fork_that_no_engine_understands() -> None:
    witness, one, other = a_witness(tolerated=False), a_block(), a_block(b"other")
    witness.decided(key(0), one, certificate(one))
    witness.decided(key(1), other, certificate(other))
    witness.engines_name_culprits()


@alarm("I10")
def an_engine_that_keeps_everything() -> None:
    engine = an_engine()
    engine._waiting._claims = {key(i % 250) + bytes([i // 250]): i for i in range(20_000)}  # type: ignore[misc]
    a_witness().memory(engine, nodes=4)


@alarm("I11")
def a_network_that_stands_still() -> None:
    stalled = world.World(Options(seed=1, progress_seconds=5.0, healed_at=1.0))
    stalled._ask_again = lambda processes: None  # type: ignore[method-assign]
    stalled.send_all = lambda source, thing: None  # type: ignore[method-assign]
    stalled.run()


@alarm("I12")
def a_minority_that_decides() -> None:
    witness, block = a_witness(), a_block()
    for i in range(3):
        vote = prepare(i, 1, 0, block.hash, -1)
        says(witness, vote, record_of_block(block, view=0))
    for i in range(3):
        vote = commit(i, 1, 0, block.hash)
        logs(witness, i, record_of_vote(vote, chain_id=CHAIN_ID), record_of_certificate(prepared(block)))
        witness.said(key(i), vote, at=5.0)
    witness.with_a_quorum(certificate(block), group=frozenset({key(0)}), since=2.0)


@alarm("I13")
def an_honest_node_called_a_liar() -> None:
    a_witness().nobody_honest_shunned(key(0), "a contribution that its author did not sign")


@alarm("I15")
def a_lock_that_a_restart_forgot() -> None:
    witness, block = a_witness(), a_block()
    for i in range(3):
        says(witness, prepare(i, 1, 0, block.hash, -1), record_of_block(block, view=0))
    says(witness, commit(0, 1, 0, block.hash), record_of_certificate(prepared(block)))
    engine = an_engine()
    from consensus import StartHeight

    engine.step(StartHeight(1))
    witness.restarted(key(0), engine)


@alarm("I15")
def another_state_after_a_restart() -> None:
    witness, block, other = a_witness(), a_block(), a_block(b"other")
    witness.decided(key(0), block, certificate(block))
    witness.same_state(STATE.after(other, certificate(other)))
