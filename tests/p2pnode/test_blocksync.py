"""Blocks from several peers at once, over real connections: what liars can do, and what they cannot."""

from dataclasses import replace

import pytest
import trio

import consensus
from p2pnode import blocksync, gossip
from p2pnode.blocksync import Pages
from p2pnode.checkpoint import Checkpoint, WrongHistory
from p2pnode.wire import BLOCKS_PER_REQUEST_MAX, Method, decode_blocks_request, encode_blocks
from tests.p2pnode.little import Chain, certify, sign, until
from tests.p2pnode.rig import Peer, network

HEIGHTS = 3 * BLOCKS_PER_REQUEST_MAX + 10
CHAIN = Chain(4).grow(HEIGHTS, contributors=())


def rows(decided):
    return [(block.encode(), certificate.encode()) for block, certificate in decided]


def honest(tmp_path, seed, heights=HEIGHTS, chain=CHAIN):
    return Peer(tmp_path / f"honest{seed}", chain, heights=heights, seed=seed)


def joiner(tmp_path, **options):
    return Peer(tmp_path / "joiner", CHAIN, seed=92, **options)


def answers(peer, *, at, how):
    """``peer`` answers honestly, but for pages that begin at or above a height."""

    async def answer(body: bytes) -> bytes:
        first, count = decode_blocks_request(body)
        if first < at:
            return await peer.gossip.answer(Method.BLOCKS, body)
        return await how(first, count)

    peer.answers[Method.BLOCKS] = answer


async def never(*_):
    await trio.sleep_forever()


def refused(me):
    return {line["peer"] for line in me.log.said("catch-up source refused")}


# --- the plan ------------------------------------------------------------------------------------------------------------------


def blocks(page, count=None):
    return [None] * (page.count if count is None else count)


def test_each_page_is_asked_of_one_peer_and_the_first_of_another_when_it_is_late():
    pages = Pages(0, 1000)
    asked = [pages.ask_next(b"one", 1000, now=0.0) for _ in range(2)]
    assert [(page.first, page.count) for page in asked] == [(1, 64), (65, 64)]
    assert pages.ask_next(b"two", 1000, now=0.5).first == 129
    for number in range(3, blocksync.PAGES_AHEAD):
        assert pages.ask_next(b"two", 1000, now=0.5).first == 64 * number + 1
    assert pages.ask_next(b"three", 1000, now=0.9) is None, "no more than so many pages ahead"
    assert pages.next_change() == blocksync.OVERTAKE_SECONDS
    assert pages.ask_next(b"three", 1000, now=1.0) is asked[0]
    assert pages.awaited() == [b"one", b"three"]
    assert pages.ask_next(b"one", 1000, now=9.0) is None, "nobody is asked twice"


def test_the_second_answer_is_late_and_changes_nothing():
    pages = Pages(0, 64)
    page = pages.ask_next(b"one", 64, now=0.0)
    assert pages.ask_next(b"two", 64, now=2.0) is page
    pages.arrived(page, b"two", blocks(page))
    assert pages.ready().sender == b"two"
    pages.arrived(page, b"one", ["other"])
    assert pages.ready().sender == b"two" and len(pages.ready().blocks) == 64
    pages.verified(64)
    assert pages.done and pages.ready() is None


def test_what_a_page_lacks_is_asked_for_again():
    pages = Pages(0, 100)
    page = pages.ask_next(b"one", 100, now=0.0)
    pages.arrived(page, b"one", blocks(page, 40))
    pages.verified(40)
    rest = pages.ask_next(b"one", 100, now=0.0)
    assert (rest.first, rest.count) == (41, 24), "a page may be short because it is long enough in bytes"
    pages.arrived(rest, b"one", blocks(rest))
    pages.verified(40)  # nothing of it was right
    again = pages.ask_next(b"two", 100, now=0.0)
    assert (again.first, again.count) == (41, 24)
    assert pages.ask_next(b"one", 100, now=99.0) is not again


def test_a_claim_says_whom_to_ask_and_nothing_else():
    pages = Pages(5, 10**9)
    assert pages.ask_next(b"behind", 5, now=0.0) is None
    assert pages.exhausted([])
    assert pages.ask_next(b"liar", 10**9, now=0.0).first == 6
    assert not pages.exhausted([b"liar"])
    pages.failed(pages._pages[0], b"liar")
    assert pages.exhausted([b"liar"]) and not pages.exhausted([b"liar", b"other"])


# --- over real connections -------------------------------------------------------------------------------------------------------


async def test_several_peers_share_a_long_chain(tmp_path):
    them, me = [honest(tmp_path, seed) for seed in (93, 94, 95)], joiner(tmp_path)
    async with network(*them, me):
        for peer in them:
            peer.says(HEIGHTS)
        await until(lambda: len(me.gossip.statuses) == 3)
        catchup, _ = me.catch_up()
        await catchup.sync.extend(HEIGHTS)
        assert catchup.chain == CHAIN.state and me.store.height() == HEIGHTS
    assert all(Method.BLOCKS in peer.asked for peer in them)
    assert sum(peer.asked.count(Method.BLOCKS) for peer in them) == 4, "no page twice"
    assert not refused(me)


async def wrong(first, count):
    """True blocks, but not those: a bad index."""
    return encode_blocks(rows(CHAIN.decided[: min(count, HEIGHTS)]))


async def truncated(first, count):
    return encode_blocks(rows(CHAIN.decided[first - 1 : first + 4]))


async def flipped(first, count):
    page = rows(CHAIN.decided[first - 1 : first - 1 + count])
    block, certificate = page[len(page) // 2]
    page[len(page) // 2] = (block, certificate[:-1] + bytes([certificate[-1] ^ 1]))
    return encode_blocks(page)


async def longer(first, count):
    return encode_blocks(rows(CHAIN.decided[first - 1 : first + count]))


@pytest.mark.parametrize("how", [wrong, truncated, flipped, longer])
async def test_a_wrong_page_costs_its_sender_the_pass_and_nobody_a_block(tmp_path, how):
    liar, them, me = honest(tmp_path, 93), honest(tmp_path, 94), joiner(tmp_path)
    answers(liar, at=1, how=how)
    async with network(liar, them, me):
        liar.says(10**6)
        them.says(HEIGHTS)
        await until(lambda: len(me.gossip.statuses) == 2)
        catchup, _ = me.catch_up()
        await catchup.sync.extend(catchup.claimed())
        assert catchup.chain == CHAIN.state
        assert catchup.claimed() == HEIGHTS
    assert refused(me) == {blocksync.transport.short_id(liar.key)}


async def test_who_never_answers_is_overtaken(tmp_path, monkeypatch):
    monkeypatch.setattr(blocksync, "OVERTAKE_SECONDS", 0.0)
    silent, them, me = honest(tmp_path, 93), honest(tmp_path, 94), joiner(tmp_path)
    answers(silent, at=1, how=never)
    async with network(silent, them, me):
        silent.says(HEIGHTS + 1)
        them.says(HEIGHTS)
        await until(lambda: len(me.gossip.statuses) == 2)
        catchup, _ = me.catch_up()
        with trio.fail_after(blocksync.PASS_SECONDS_MAX / 2):
            await catchup.sync.extend(HEIGHTS)
        assert catchup.chain == CHAIN.state


async def test_a_pass_ends_when_verified_blocks_no_longer_come(tmp_path, monkeypatch):
    """Whatever is claimed; and who kept it waiting comes last the next time."""
    before = blocksync.PASS_SECONDS_MAX
    monkeypatch.setattr(blocksync, "PASS_SECONDS_MAX", 0.3)
    monkeypatch.setattr(gossip, "ASK_SECONDS_MAX", 1000.0)
    silent, me = honest(tmp_path, 93), joiner(tmp_path)
    answers(silent, at=65, how=never)
    async with network(silent, me):
        silent.says(10**6)
        await until(lambda: me.gossip.statuses)
        catchup, _ = me.catch_up()
        with trio.fail_after(before):
            await catchup.sync.extend(10**6)
        assert catchup.chain == CHAIN.states[64] and me.store.height() == 64
        assert catchup.claimed() == 0


async def test_heights_that_go_up_and_down_again_hold_nobody_up(tmp_path):
    liar, them, me = honest(tmp_path, 93), honest(tmp_path, 94), joiner(tmp_path)
    heights = [10**6, 3, 2**61]

    async def lie(first, count):
        liar.says(heights[len(liar.asked) % 3])
        return encode_blocks([])

    answers(liar, at=65, how=lie)
    async with network(liar, them, me):
        liar.says(10**9)
        them.says(HEIGHTS)
        await until(lambda: len(me.gossip.statuses) == 2)
        catchup, position = me.catch_up()
        position = await catchup.reach(position, patient=False)
        assert position.state == CHAIN.state
        liar.says(3)
        await until(lambda: me.gossip.statuses[liar.key].height == 3)
        assert catchup.claimed() == HEIGHTS


async def test_one_liar_makes_no_absurd_height(tmp_path):
    """What the operator reads is what an honest member claims, or else the median."""
    liar, others, me = honest(tmp_path, 93), [honest(tmp_path, seed) for seed in (94, 95)], joiner(tmp_path)
    async with network(liar, *others, me):
        liar.says(10**9)
        for peer in others:
            peer.says(HEIGHTS)
        await until(lambda: len(me.gossip.statuses) == 3)
        catchup, _ = me.catch_up()
        assert catchup.likely_tip() == HEIGHTS
        assert catchup.sync.progress() == f"catching up: block 0 of {HEIGHTS} (claimed by 3 peers)"
        member = CHAIN.founders[0].public_key
        me.gossip.statuses[member] = replace(me.gossip.statuses[liar.key], height=10**8)
        assert catchup.likely_tip() == HEIGHTS, "one of four members may lie, too"
        me.gossip.statuses[CHAIN.founders[1].public_key] = replace(me.gossip.statuses[liar.key], height=500)
        assert catchup.likely_tip() == 500, "two of four: one of them is honest"


# --- another history ----------------------------------------------------------------------------------------------------------------


def leave(chain, place):
    author = consensus.PublicKey(chain.founders[place].public_key)
    message = consensus.Leave(author, chain.state.height + 1, consensus.Signature(b""))
    return sign(chain.founders[place], chain.genesis.chain_id, message)


def decide(chain, signers, *requests):
    state = chain.state
    template = consensus.BlockTemplate(state, state.membership.current.proposer(state.height + 1, 0), requests=requests)
    block = consensus.build_block(template, contributions=[], model_root=state.model_root)
    certificate = certify(signers, chain.genesis.chain_id, block)
    chain.decided.append((block, certificate))
    chain.states.append(state.after(block, certificate))
    chain.replicas.append(chain.replica)


def deserted():
    """A network that three of its four founders left, one after the other."""
    chain = Chain(4)
    for place in (1, 2, 3):
        decide(chain, members_of(chain), leave(chain, place))
    while chain.state.height < 12:
        decide(chain, members_of(chain))
    assert chain.state.membership.current.members == (chain.founders[0].public_key,)
    return chain


def members_of(chain):
    current = chain.state.membership.current.members
    return [founder for founder in chain.founders if founder.public_key in current]


def rewritten():
    """What those three sign afterwards, with the keys that they kept: the same genesis, another past, and longer."""
    chain = Chain(4)
    while chain.state.height < 20:
        decide(chain, chain.founders[1:])
    return chain


TRUE, FALSE = deserted(), rewritten()
POINT = Checkpoint(9, TRUE.states[9].block_hash)


def newcomer(tmp_path, checkpoint, *, heights=0, chain=TRUE):
    me = Peer(tmp_path / "newcomer", chain, heights=heights, seed=92)
    me.checkpoint = checkpoint
    return me


async def test_without_a_checkpoint_the_first_history_that_verifies_is_taken(tmp_path):
    """Old keys sign another past, and nothing in it is wrong."""
    attacker, me = honest(tmp_path, 93, heights=20, chain=FALSE), newcomer(tmp_path, None)
    async with network(attacker, me):
        attacker.says(20)
        await until(lambda: me.gossip.statuses)
        catchup, _ = me.catch_up()
        await catchup.sync.extend(20)
        assert catchup.chain == FALSE.state


async def test_with_a_checkpoint_that_history_is_refused_and_both_hashes_are_shown(tmp_path):
    attacker, me = honest(tmp_path, 93, heights=20, chain=FALSE), newcomer(tmp_path, POINT)
    async with network(attacker, me):
        attacker.says(20)
        await until(lambda: me.gossip.statuses)
        catchup, position = me.catch_up()
        with pytest.raises(WrongHistory) as caught:
            await catchup.advance(position, 20)
    assert FALSE.states[9].block_hash.hex() in caught.value.message
    assert POINT.block_hash.hex() in caught.value.message and "--bootstrap" in caught.value.hint
    assert me.log.said("another history refused")


async def test_with_a_checkpoint_the_right_history_is_found_among_wrong_ones(tmp_path):
    attackers = [honest(tmp_path, seed, heights=20, chain=FALSE) for seed in (93, 94)]
    them, me = honest(tmp_path, 95, heights=12, chain=TRUE), newcomer(tmp_path, POINT)
    async with network(*attackers, them, me):
        for attacker in attackers:
            attacker.says(20)
        them.says(12)
        await until(lambda: len(me.gossip.statuses) == 3)
        catchup, position = me.catch_up()
        while catchup.chain != TRUE.state:
            position = await catchup.advance(position, 20)
            assert position.state.height == 0 or catchup.sync.confirmed, "nothing is built on what is not confirmed"
        assert me.store.height() == 12


async def test_who_holds_a_chain_never_switches(tmp_path):
    attacker = honest(tmp_path, 93, heights=20, chain=FALSE)
    me = newcomer(tmp_path, None, heights=12)
    async with network(attacker, me):
        attacker.says(20)
        await until(lambda: me.gossip.statuses)
        catchup, position = me.catch_up()
        await catchup.advance(position, 20)
        assert catchup.chain == TRUE.state and me.store.height() == 12


async def test_a_home_with_another_history_than_the_checkpoints_does_not_start(tmp_path):
    me = newcomer(tmp_path, POINT, heights=20, chain=FALSE)
    async with network(me):
        with pytest.raises(WrongHistory, match="of this home's chain") as caught:
            me.catch_up()
    assert "move chain.sqlite" in caught.value.hint


async def test_a_home_that_was_led_astray_before_is_told_so(tmp_path):
    """Its model already stands on the other history."""
    attacker, me = honest(tmp_path, 93, heights=20, chain=FALSE), newcomer(tmp_path, POINT, heights=5, chain=FALSE)
    async with network(attacker, me):
        attacker.says(20)
        await until(lambda: me.gossip.statuses)
        catchup, position = me.catch_up()
        position = replace(position, state=FALSE.states[5])
        with pytest.raises(WrongHistory, match="of this home's chain"):
            await catchup.advance(position, 20)


async def test_until_the_checkpoint_is_reached_a_node_takes_no_part(tmp_path, autojump_clock):
    me = newcomer(tmp_path, Checkpoint(500, bytes(32)), heights=12)
    async with network(me):
        catchup, position = me.catch_up()
        with trio.move_on_after(30):
            await catchup.reach(position, patient=False)
            raise AssertionError("it went on")
        assert catchup.doing == "catching up: block 12 of 500 (the checkpoint)"
