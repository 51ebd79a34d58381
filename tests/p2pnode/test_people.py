"""What the chain says about people, as an operator reads it: read off real memberships and blocks."""

from dataclasses import replace

import consensus
from consensus.membership import Offence, Presence
from p2pnode import people
from tests.p2pnode.little import Chain, contribution, payload, sign
from transport import node_id

CHAIN = Chain(4)
KEYS = [consensus.PublicKey(founder.public_key) for founder in CHAIN.founders]
IDS = [node_id(key) for key in KEYS]


def block_with(chain: Chain, *, evidence=(), requests=()) -> consensus.Block:
    state = chain.state
    proposer = state.membership.current.proposer(state.height + 1, 0)
    template = consensus.BlockTemplate(state, proposer, tuple(evidence), tuple(requests))
    return consensus.build_block(template, contributions=[], model_root=state.model_root)


def after(chain: Chain, block: consensus.Block) -> consensus.Membership:
    from tests.p2pnode.little import certify

    return chain.state.after(block, certify(chain.founders, chain.genesis.chain_id, block)).membership


def test_who_leaves_and_who_is_evicted_are_told_apart():
    leaver, liar = CHAIN.founders[1], CHAIN.founders[2]
    unsigned = consensus.Leave(KEYS[1], 1, consensus.Signature(b""))
    leave = sign(leaver, CHAIN.genesis.chain_id, unsigned)
    two = [contribution(liar, CHAIN.state, payload(seed)) for seed in (1, 2)]
    pairs = [(c.statement(CHAIN.state.chain_id), c.signature) for c in two]
    proof = consensus.evidence.evidence_of(KEYS[2], *pairs)
    block = block_with(CHAIN, evidence=[proof], requests=[leave])
    membership = after(CHAIN, block)
    found = people.changes(CHAIN.state.membership, membership, block)
    assert found == {
        "joined": [],
        "left": sorted(
            [{"node": IDS[1], "why": "left"}, {"node": IDS[2], "why": "evidence"}],
            key=lambda gone: KEYS[IDS.index(gone["node"])],
        ),
    }
    assert people.banned_until(membership, KEYS[2]) == 1 + 2 + 1000 and people.banned_until(membership, KEYS[1]) is None
    assert people.banned(membership) == [
        {"node": IDS[2], "kind": "double_contribution", "height": 1, "until_height": 1003}
    ]


def test_who_joins_is_named():
    before = CHAIN.state.membership
    grown = replace(before, next=consensus.Committee.of([*KEYS, consensus.PublicKey(b"\x11" * 32)]))
    found = people.changes(before, grown, block_with(CHAIN))
    assert found == {"joined": [node_id(b"\x11" * 32)], "left": []}
    assert people.changes(grown, before, block_with(CHAIN))["left"] == [
        {"node": node_id(b"\x11" * 32), "why": "absent"}
    ]


def test_silence_is_absence_after_a_while():
    chain = Chain(4).grow(people.ABSENT_SHOWN_HEIGHTS + 1)
    state = chain.state
    assert people.absent(state) == []
    presence = tuple(
        Presence(each.member, 1 if each.member == KEYS[3] else state.height) for each in state.membership.presence
    )
    quiet = replace(state, membership=replace(state.membership, presence=presence))
    assert people.absent(quiet) == [{"node": IDS[3], "since_height": 1}]


def test_an_offence_of_long_ago_bans_until_the_newest_ends():
    offences = (
        Offence(KEYS[0], consensus.EvidenceKind.DOUBLE_COMMIT, 3),
        Offence(KEYS[0], consensus.EvidenceKind.DOUBLE_PREPARE, 9),
    )
    membership = replace(CHAIN.state.membership, offences=offences)
    assert people.banned_until(membership, KEYS[0]) == 9 + 2 + 1000
