"""Everything that makes a block invalid without looking at payloads; each defect alone, on a block that is otherwise good."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from consensus import Block, BlockTemplate, ChainState, Digest, LocalFault, Malformed, Purpose, build_block, check_block
from consensus.block import contributions_hash, evidence_hash
from consensus.evidence import EVIDENCE_BYTES_MAX
from consensus.limits import (
    BLOCK_BYTES_MAX,
    CONTRIBUTIONS_PER_BLOCK_MAX,
    EVIDENCE_PER_BLOCK_MAX,
    MEMBERS_MAX,
    REQUESTS_PER_BLOCK_MAX,
)
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import CHAIN_ID, ROOT_0, contribution, genesis
from tests.consensus.bench import Bench
from tests.consensus.test_membership import double_contribution

BENCH = Bench()
FIRST = BENCH.block(1, 0, 1)
SECOND_STATE = BENCH.state.after(FIRST, BENCH.committed(0, FIRST, (0, 1, 2)))


def second(**template: object) -> Block:
    listed = [contribution(BENCH.signatures, i, SECOND_STATE) for i in (3, 0)]
    return build_block(
        BlockTemplate(SECOND_STATE, key(2), **template),  # type: ignore[arg-type]
        contributions=listed,
        model_root=Digest(b"\3" * 32),
    )


def problem(block: Block, state: ChainState = SECOND_STATE) -> str | None:
    return check_block(block, state, BENCH.signatures.verify)


def test_good_blocks_pass_and_survive_the_wire() -> None:
    with_proof = second(evidence=(double_contribution(BENCH, 1),))
    for block, state in ((FIRST, BENCH.state), (second(), SECOND_STATE), (with_proof, SECOND_STATE)):
        assert problem(block, state) is None
        again = Block.decode(block.encode())
        assert again == block and again.hash == block.hash


def test_contributions_may_be_given_in_any_order() -> None:
    assert [c.author for c in second().contributions] == [key(0), key(3)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 1),
        ("chain_id", Digest(b"\1" * 32)),
        ("previous", Digest(b"\1" * 32)),
        ("proposer", key(9)),
        ("committee_hash", Digest(b"\1" * 32)),
        ("next_committee_hash", Digest(b"\1" * 32)),
        ("membership_hash", Digest(b"\1" * 32)),
        ("previous_root", Digest(b"\1" * 32)),
    ],
)
def test_each_field_of_the_header_is_checked(field: str, value: object) -> None:
    block = second()
    changed = Block(
        replace(block.header, **{field: value}),
        block.contributions,
        block.evidence,
        block.requests,
        block.last_certificate,
    )
    assert changed.hash != block.hash
    assert problem(changed) is not None


@pytest.mark.parametrize("field", ["contributions_hash", "evidence_hash", "requests_hash", "last_certificate_hash"])
def test_a_block_cannot_exist_with_a_body_that_its_header_does_not_name(field: str) -> None:
    block = second()
    with pytest.raises(Malformed):
        Block(
            replace(block.header, **{field: Digest(b"\1" * 32)}),
            block.contributions,
            block.evidence,
            block.requests,
            block.last_certificate,
        )


def rebuilt(change: Callable[[tuple], tuple]) -> Block:
    """SECOND with other contributions, the header fitted to them."""
    block = second()
    listed = change(block.contributions)
    header = replace(block.header, contributions_hash=contributions_hash(listed))
    return Block(header, listed, block.evidence, block.requests, block.last_certificate)


def test_contributions_are_signed_ascending_and_of_this_height_and_model() -> None:
    stolen = lambda cs: (replace(cs[0], signature=cs[1].signature), cs[1])  # noqa: E731
    assert problem(rebuilt(stolen)) == "a contribution that its author did not sign"
    stale = BENCH.sign(replace(second().contributions[0], base_root=ROOT_0))
    assert problem(rebuilt(lambda cs: (stale, cs[1]))) == "a contribution computed from another model"
    old = contribution(BENCH.signatures, 0, BENCH.state)
    for change in (
        lambda cs: cs[::-1],
        lambda cs: (cs[0], cs[0]),
        lambda cs: (old, cs[1]),
        lambda cs: cs * CONTRIBUTIONS_PER_BLOCK_MAX,
    ):
        with pytest.raises(Malformed):
            rebuilt(change)


def test_one_update_and_one_probe_of_the_same_author_may_stand_together() -> None:
    both = [
        contribution(BENCH.signatures, 0, SECOND_STATE, purpose=purpose) for purpose in (Purpose.PROBE, Purpose.UPDATE)
    ]
    block = build_block(BlockTemplate(SECOND_STATE, key(2)), contributions=both, model_root=Digest(b"\3" * 32))
    assert [c.purpose for c in block.contributions] == [Purpose.UPDATE, Purpose.PROBE]
    assert problem(block) is None


def test_without_an_update_the_model_stays() -> None:
    probe = contribution(BENCH.signatures, 0, SECOND_STATE, purpose=Purpose.PROBE)
    template = BlockTemplate(SECOND_STATE, key(2))
    for listed in ([], [probe]):
        kept = build_block(template, contributions=listed, model_root=SECOND_STATE.model_root)
        moved = build_block(template, contributions=listed, model_root=Digest(b"\3" * 32))
        assert problem(kept) is None
        assert problem(moved) == "a new model without an update that weighs anything"


def test_the_decision_before_it_is_carried_and_checked() -> None:
    other = BENCH.block(1, 2)
    wrong = {
        None: "without",
        BENCH.committed(0, other, (0, 1, 2)): "another block",
        BENCH.committed(0, FIRST, (0, 1)): "needed",
        replace(BENCH.committed(0, FIRST, (0, 1, 2)), height=2): "another block",
    }
    for certificate, reason in wrong.items():
        block = build_block(
            BlockTemplate(replace(SECOND_STATE, last_certificate=certificate), key(2)),
            contributions=[contribution(BENCH.signatures, 0, SECOND_STATE)],
            model_root=Digest(b"\3" * 32),
        )
        assert reason in str(problem(block))
    assert problem(second(), replace(BENCH.state, height=1)) is not None


def test_the_certificate_is_checked_against_the_committee_that_decided() -> None:
    """A committee that grew: block 3's certificate is by the old one, block 5's by the new one."""
    state, bench = genesis(1), Bench(nodes=1)
    for height in range(1, 7):
        voters = [i for i in range(4) if key(i) in state.membership.current]
        bench.state = state
        block = bench.block(0 if height < 4 else voters[0], 0, 1, 2, 3)
        assert check_block(block, state, bench.signatures.verify) is None
        state = state.after(block, bench.committed(0, block, voters))
    assert len(voters) == 4


def test_the_first_block_carries_no_certificate() -> None:
    template = BlockTemplate(replace(BENCH.state, last_certificate=BENCH.committed(0, FIRST, (0, 1, 2))), key(1))
    block = build_block(template, contributions=[], model_root=ROOT_0)
    assert problem(block, BENCH.state) == "a certificate for the genesis"


def test_evidence_in_a_block_is_checked_unique_and_bounded() -> None:
    proof = double_contribution(BENCH, 1)
    forged = replace(proof, author=key(3))
    assert problem(second(evidence=(forged,))) == "evidence with a signature that does not verify"
    with pytest.raises(Malformed):
        second(evidence=(proof, proof))
    held = second(evidence=(proof,))
    third_state = SECOND_STATE.after(held, BENCH.committed(0, held, (0, 1, 2)))
    again = build_block(
        BlockTemplate(third_state, key(3), (proof,)), contributions=[], model_root=third_state.model_root
    )
    assert problem(again, third_state) == "evidence that the chain already holds"
    assert evidence_hash((proof,)) != evidence_hash(())


def test_contributions_are_in_the_codec_of_the_network() -> None:
    (good,) = [c for c in second().contributions if c.author == key(0)]
    other = BENCH.sign(replace(good, codec=2))
    block = build_block(BlockTemplate(SECOND_STATE, key(2)), contributions=[other], model_root=Digest(b"\3" * 32))
    assert problem(block) == "a contribution in another codec than the network's"


def test_a_state_only_moves_to_the_block_that_follows() -> None:
    with pytest.raises(LocalFault):
        BENCH.state.after(second(), BENCH.committed(0, second(), (0, 1, 2)))
    with pytest.raises(LocalFault):
        BENCH.state.after(FIRST, BENCH.committed(0, second(), (0, 1, 2)))
    assert SECOND_STATE.chain_id == CHAIN_ID and SECOND_STATE.height == 1


def test_the_largest_block_fits_its_bounds() -> None:
    crowd = [
        contribution(BENCH.signatures, i % 250, SECOND_STATE, salt=b"%d" % i)
        for i in range(CONTRIBUTIONS_PER_BLOCK_MAX)
    ]
    listed = [
        BENCH.sign(replace(c, author=i.to_bytes(32, "big")))
        for i, c in enumerate(crowd)  # type: ignore[arg-type]
    ]
    template = BlockTemplate(SECOND_STATE, key(2))
    block = build_block(template, contributions=listed, model_root=SECOND_STATE.model_root)
    rest = MEMBERS_MAX * 96 + EVIDENCE_PER_BLOCK_MAX * EVIDENCE_BYTES_MAX + REQUESTS_PER_BLOCK_MAX * 345
    assert len(block.encode()) + rest < BLOCK_BYTES_MAX
    assert problem(Block.decode(block.encode())) is None
