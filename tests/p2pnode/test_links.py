"""Who hears whom, from signed claims, and to whom a message is passed on: links.py and relay.py as pure values."""

import hashlib
import struct
from dataclasses import replace

import pytest
import trio

import consensus
import transport
from p2pnode.links import LINKS_KIND, LINKS_REPEAT_SECONDS, UNSAID, Links, Malformed, Standing
from p2pnode.relay import RELAYED_BURST, RELAYED_PER_SECOND, Relay
from tests.p2pnode.little import identities

CHAIN_ID = b"\x11" * 32
PEOPLE = identities(7)
KEYS = [person.public_key for person in PEOPLE]


def say(links, place, heard, *, now=0.0, unix_seconds=1000.0, standing=UNSAID):
    """What `place` says when it hears those."""
    return links.say(
        [KEYS[other] for other in heard],
        chain_id=CHAIN_ID,
        sign=PEOPLE[place].sign,
        now=now,
        unix_seconds=unix_seconds,
        standing=standing,
    )


def picture(me, pairs, count=7):
    """What a member knows once all have said whom they hear."""
    links = [Links(key) for key in KEYS]
    for place in range(count):
        heard = [b if a == place else a for a, b in pairs if place in (a, b)]
        said = say(links[place], place, heard)
        if place != me:
            links[me].take(said, KEYS[:count])
    return links[me]


LINE = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)]
MESH = [(a, b) for a in range(7) for b in range(a)]


def test_along_a_line_everybody_is_reachable_and_across_a_cut_nobody():
    assert picture(0, LINE).reachable([KEYS[1]], KEYS) == set(KEYS)
    cut = [pair for pair in LINE if pair != (2, 3)]
    assert picture(0, cut).reachable([KEYS[1]], KEYS) == set(KEYS[:3])
    assert picture(0, LINE).reachable([], KEYS) == {KEYS[0]}


def test_how_many_links_it_is_to_each():
    steps = picture(0, LINE).steps([KEYS[1]], KEYS)
    assert steps == {key: place for place, key in enumerate(KEYS)} and list(steps.values()) == sorted(steps.values())
    assert picture(0, MESH).steps(KEYS[1:], KEYS) == {KEYS[0]: 0, **dict.fromkeys(KEYS[1:], 1)}
    assert picture(0, LINE).steps([KEYS[1]], KEYS[1:]) == {key: place + 1 for place, key in enumerate(KEYS[1:])}


def test_a_link_counts_where_both_ends_claim_it():
    links = Links(KEYS[0])
    links.take(say(Links(KEYS[1]), 1, [0, 2]), KEYS)
    assert not links.linked(KEYS[1], KEYS[2]), "the other says nothing"
    links.take(say(Links(KEYS[2]), 2, []), KEYS)
    assert not links.linked(KEYS[1], KEYS[2])
    links.take(say(Links(KEYS[2]), 2, [1], unix_seconds=1001.0), KEYS)
    assert links.linked(KEYS[1], KEYS[2]) and links.linked(KEYS[2], KEYS[1])


def test_it_is_said_when_it_changes_and_now_and_then():
    links = Links(KEYS[0])
    assert say(links, 0, [1], now=0.0) is not None
    assert say(links, 0, [1], now=1.0) is None
    assert say(links, 0, [1, 2], now=1.5) is not None
    assert say(links, 0, [1, 2], now=1.5 + LINKS_REPEAT_SECONDS) is not None


def test_where_a_member_stands_is_said_with_its_links():
    links, theirs = Links(KEYS[0]), Links(KEYS[1])
    links.take(say(theirs, 1, [2]), KEYS)
    assert links.standings() == {}
    assert links.take(say(theirs, 1, [2], standing=Standing(7, 8), now=0.1), KEYS)
    assert links.standings() == {KEYS[1]: (7, 8)} and theirs.standings() == {}
    assert say(theirs, 1, [2], standing=Standing(7, 8), now=0.2) is None
    assert links.take(say(theirs, 1, [2], now=0.3), KEYS) and links.standings() == {}


def test_the_newest_counts_also_when_the_clock_stands_still():
    mine, theirs = Links(KEYS[0]), Links(KEYS[1])
    first, second = say(theirs, 1, [0]), say(theirs, 1, [0, 2])
    assert mine.take(second, KEYS)
    assert not mine.take(first, KEYS) and not mine.take(second, KEYS)
    assert first is not None and first.is_authentic() and first.kind == LINKS_KIND


def test_strangers_and_those_who_left_are_not_remembered():
    links = Links(KEYS[0])
    assert not links.take(say(Links(KEYS[1]), 1, [0]), [KEYS[0], KEYS[2]])
    assert links.take(say(Links(KEYS[1]), 1, [0]), KEYS)
    assert links.take(say(Links(KEYS[2]), 2, [0, 1]), [KEYS[0], KEYS[2]])
    assert not links.linked(KEYS[1], KEYS[2])


@pytest.mark.parametrize("attachment", [b"1234567", bytes(8 * 129), b"another "])
def test_what_is_not_of_its_form_is_refused(attachment):
    said = say(Links(KEYS[1]), 1, [0])
    with pytest.raises(Malformed):
        Links(KEYS[0]).take(replace(said, attachment=attachment), KEYS)
    body = struct.pack(">QQQ32s", 1, 0, 0, hashlib.sha256(b"").digest()) + b"more"
    statement = transport.make_statement(LINKS_KIND, transport.ChainId(CHAIN_ID), body)
    with pytest.raises(Malformed):
        Links(KEYS[0]).take(transport.Envelope(KEYS[1], b"", statement), KEYS)


# --- to whom ------------------------------------------------------------------------------------------------------------------------


def relay(me, pairs, count=7, height=4):
    committee = consensus.Committee(tuple(consensus.PublicKey(key) for key in KEYS[:count]))
    return Relay(KEYS[me], links=picture(me, pairs, count), committee=lambda: committee, height=lambda: height)


def targets(relay_, author, came_from, *, live, is_first=True, height=5):
    chosen = relay_.targets(
        KEYS[author],
        came_from=KEYS[came_from],
        height=height,
        is_first=is_first,
        live={KEYS[place] for place in live},
    )
    return {KEYS.index(key) for key in (*chosen.at_once, *chosen.along)}


async def test_where_all_hear_all_a_vote_goes_to_the_next_in_the_ring_only():
    for author in range(1, 7):
        expected = {1} - {author}
        assert targets(relay(0, MESH), author, author, live=range(1, 7)) == expected
        assert targets(relay(0, MESH), author, author, live=range(1, 7), is_first=False) == set()


async def test_along_a_line_all_goes_on_and_repetitions_do_too():
    middle = relay(3, LINE)
    assert targets(middle, 0, 2, live=[2, 4]) == {4}
    assert targets(middle, 0, 2, live=[2, 4], is_first=False) == {4}
    assert targets(middle, 0, 2, live=[2, 4], is_first=False, height=4) == set(), "that height is over"
    assert targets(middle, 2, 2, live=[2, 4]) == {4}


async def test_only_who_may_hear_it_in_no_other_way_is_told_at_once():
    line, mesh = relay(3, LINE), relay(0, MESH)
    first = {"height": 5, "is_first": True}
    told = line.targets(KEYS[0], came_from=KEYS[2], live={KEYS[2], KEYS[4]}, **first)
    assert (told.at_once, told.along) == ([KEYS[4]], [])
    told = mesh.targets(KEYS[3], came_from=KEYS[2], live=set(KEYS[1:7]), **first)
    assert told.at_once == [] and set(told.along) == {KEYS[1], KEYS[3]}


async def test_what_comes_by_another_way_is_shown_to_its_author():
    assert 3 in targets(relay(0, MESH), 3, 2, live=range(1, 7))
    assert 3 not in targets(relay(0, MESH), 3, 2, live=range(1, 7), is_first=False)


async def test_nothing_of_strangers_goes_on_and_strangers_pass_nothing_on():
    assert targets(relay(0, MESH[:6], count=4), 5, 5, live=[1, 2, 3]) == set()
    assert targets(relay(5, MESH[:6], count=4), 1, 1, live=[1, 2, 3]) == set()
    assert targets(relay(0, MESH), 0, 1, live=range(1, 7)) == set(), "our own comes back"


async def test_whoever_signs_without_end_floods_nobody(autojump_clock):
    line = relay(3, LINE)
    sent = [bool(targets(line, 0, 2, live=[2, 4])) for _ in range(int(RELAYED_BURST) + 20)]
    assert sum(sent) == RELAYED_BURST
    assert targets(line, 1, 2, live=[2, 4]) == {4}, "another author is heard"
    await trio.sleep(1.0)
    sent = [bool(targets(line, 0, 2, live=[2, 4])) for _ in range(int(RELAYED_BURST))]
    assert sum(sent) == RELAYED_PER_SECOND
