"""The fetch plan: everything is fetched once, nothing false is taken, and nothing is lost when holders fail."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as some

from transport.content import Buffer, digest_of, leaf_hashes, split
from transport.limits import BLOB_BYTES_MAX, LEAF_BYTES, LEAVES_PER_REQUEST
from transport.sharing import WHOLE, Held
from transport.transfer import FetchPlan, Range

LENGTHS = [1, LEAF_BYTES, LEAF_BYTES + 1, 20 * LEAF_BYTES + 5]


def blob(length: int) -> tuple[bytes, list[bytes], bytes]:
    data = Random(length).randbytes(length)
    leaves = [bytes(leaf) for leaf in split(data)]
    return data, leaves, b"".join(leaf_hashes(leaves))


def ready(length: int, **options: object) -> tuple[FetchPlan, list[bytes]]:
    data, leaves, joined = blob(length)
    plan = FetchPlan(digest_of(data), length, **options)  # type: ignore[arg-type]
    assert plan.accept_hashes(joined)
    return plan, leaves


def take(plan: FetchPlan, asker: bytes = b"me", *, now: float = 0.0) -> Range | None:
    return plan.take(asker, now=now, patience_seconds=1.0)


@pytest.mark.parametrize("length", LENGTHS)
def test_all_leaves_are_asked_for_once(length: int) -> None:
    plan, leaves = ready(length)
    asked: list[int] = []
    while (wanted := take(plan)) is not None:
        assert 1 <= wanted.count <= LEAVES_PER_REQUEST
        asked += range(wanted.first, wanted.first + wanted.count)
    assert asked == list(range(len(leaves)))
    for index, leaf in enumerate(leaves):
        assert not plan.is_done
        assert plan.accept_leaf(index, leaf)
    assert plan.is_done


def test_an_empty_blob_needs_nobody() -> None:
    plan = FetchPlan(digest_of(b""), 0)
    assert plan.accept_hashes(b"")
    assert plan.is_done
    assert take(plan) is None


def test_false_hashes_are_refused() -> None:
    data, _, joined = blob(3 * LEAF_BYTES)
    plan = FetchPlan(digest_of(data), len(data))
    assert not plan.accept_hashes(joined[:-32])
    assert not plan.accept_hashes(joined + bytes(32))
    assert not plan.accept_hashes(joined[32:] + joined[:32])
    assert plan.hashes is None


def test_false_leaves_are_refused() -> None:
    plan, leaves = ready(2 * LEAF_BYTES + 9)
    assert not plan.accept_leaf(0, leaves[1])
    assert not plan.accept_leaf(2, leaves[2] + b"\0")
    assert not plan.accept_leaf(2, leaves[2][:-1])
    assert not plan.accept_leaf(3, leaves[0])
    assert not plan.accept_leaf(-1, leaves[0])
    assert plan.accept_leaf(2, leaves[2])


def test_leaves_before_hashes_prove_nothing() -> None:
    data, leaves, _ = blob(LEAF_BYTES)
    assert not FetchPlan(digest_of(data), len(data)).accept_leaf(0, leaves[0])


def test_only_what_is_wanted_is_asked_for() -> None:
    plan, leaves = ready(20 * LEAF_BYTES, leaves=[3, 4, 5, 17, 4])
    ranges = []
    while (wanted := take(plan)) is not None:
        ranges.append((wanted.first, wanted.count))
    assert ranges == [(3, 3), (17, 1)]
    for index in (3, 4, 5, 17):
        assert plan.accept_leaf(index, leaves[index])
    assert plan.is_done


def test_impossible_lengths() -> None:
    for length in (-1, BLOB_BYTES_MAX + 1):
        with pytest.raises(ValueError, match="a blob of"):
            FetchPlan(bytes(32), length)


class Leaves(FetchPlan):
    """A plan whose leaves are all true, so that a thousand fetches need no hashing."""

    def accept_leaf(self, index: int, leaf: Buffer) -> bool:
        assert self.is_missing(index), "a leaf was asked for twice"
        self._missing.discard(index)
        return True


@given(some.randoms(use_true_random=False), some.integers(1, 40))
def test_whoever_fails_and_whenever_nothing_is_lost(random: Random, count: int) -> None:
    """Holders deliver a part of what they were asked for and fail; in the end every leaf was taken exactly once."""
    plan = Leaves(bytes(32), count * LEAF_BYTES)
    failures = 5 * count
    while (wanted := take(plan)) is not None:
        delivers = wanted.count
        if failures and random.random() < 0.7:
            failures -= 1
            delivers = random.randint(0, wanted.count)
        for index in range(wanted.first, wanted.first + delivers):
            plan.accept_leaf(index, b"")
        plan.give_back(wanted, b"me")
    assert not any(plan.is_missing(index) for index in range(count))


def test_at_the_end_another_is_asked_for_what_somebody_keeps_us_waiting_for() -> None:
    plan, leaves = ready(20 * LEAF_BYTES)
    slow = [take(plan, b"slow"), take(plan, b"slow", now=0.5)]
    assert take(plan, b"quick") == Range(16, 4)
    assert take(plan, b"quick", now=0.9) is None, "a moment is no delay"
    assert plan.overdue_at(b"quick", patience_seconds=1.0) == 1.0
    assert take(plan, b"quick", now=1.0) == slow[0], "the one that was asked first"
    assert take(plan, b"third", now=2.0) == Range(16, 4), "not what two were asked for already"
    assert take(plan, b"third", now=9.0) == slow[1]
    assert take(plan, b"fourth", now=9.0) is None
    assert take(plan, b"slow", now=9.0) is None, "nobody is asked twice"
    for index, leaf in enumerate(leaves):
        assert plan.accept_leaf(index, leaf)
    assert plan.is_done
    assert plan.overdue_at(b"fifth", patience_seconds=1.0) is None


def test_what_another_was_asked_for_too_is_not_asked_for_again_until_both_gave_up() -> None:
    plan, leaves = ready(3 * LEAF_BYTES)
    wanted = take(plan, b"slow")
    assert wanted is not None
    assert take(plan, b"quick", now=1.0) == wanted
    plan.give_back(wanted, b"slow")
    assert not plan.has_work
    assert plan.accept_leaf(1, leaves[1])
    plan.give_back(wanted, b"quick")
    assert [take(plan), take(plan), take(plan)] == [Range(0, 1), Range(2, 1), None]


def test_hashes_that_are_known_need_not_be_asked_for() -> None:
    _, leaves, _ = blob(3 * LEAF_BYTES)
    plan = FetchPlan(bytes(32), 3 * LEAF_BYTES, leaves=[1], hashes=leaf_hashes(leaves))
    assert not plan.is_done
    assert plan.accept_leaf(1, leaves[1])
    assert plan.is_done


def shared(me: bytes, *fellows: bytes, count: int = 128) -> FetchPlan:
    plan = FetchPlan(bytes(32), count * LEAF_BYTES)
    plan.share(me)
    for fellow in fellows:
        plan.met(fellow)
    return plan


def asked(plan: FetchPlan, asker: bytes, most: int = 1000) -> list[int]:
    found: list[int] = []
    while len(found) < most and (wanted := take(plan, asker)) is not None:
        found.append(wanted.first)
        plan.hold(wanted.first)
        plan.give_back(wanted, asker)
    return found


def test_fellows_begin_at_sections_of_their_own_and_end_with_everything() -> None:
    keys = [bytes((number,)) for number in range(4)]
    sections = [asked(shared(me, *(k for k in keys if k != me)), b"source", most=32) for me in keys]
    assert sections == [list(range(first, first + 32)) for first in (0, 32, 64, 96)]
    plan = shared(keys[1], keys[0])
    assert sorted(asked(plan, b"source")) == list(range(128))


def test_those_who_know_of_nobody_begin_at_different_places() -> None:
    begins = {asked(shared(bytes((number,))), b"source", most=1)[0] for number in range(8)}
    assert len(begins) > 4


def test_a_source_is_asked_last_for_what_fellows_hold_or_are_about_to_have() -> None:
    plan = shared(b"me", b"you")
    assert plan.holds(b"you", Held(groups=0b0011, count=2, coming=0b1100))
    order = asked(plan, b"source")
    assert sorted(order) == list(range(128)) and sorted(order[-4:]) == [0, 1, 2, 3]


def test_one_at_a_time_is_asked_of_a_source_out_of_our_section() -> None:
    plan = shared(b"a", b"b")
    for index in range(64):
        plan.hold(index)
        wanted = take(plan, b"source")
        assert wanted is not None and wanted.first < 64
    assert take(plan, b"source") == Range(127, 1), "from the end of the section before ours"
    assert take(plan, b"source") is None
    assert take(plan, b"another") == Range(126, 1)


def test_a_fellow_is_asked_for_what_it_holds_and_nothing_else() -> None:
    plan = shared(b"me")
    assert not plan.holds(b"you", Held())
    assert take(plan, b"you") is None
    assert plan.holds(b"you", Held(groups=1 << 5 | 1 << 500, count=2)), "what lies beyond the end is ignored"
    assert not plan.holds(b"you", Held(groups=1 << 5, count=1)), "nothing new"
    assert take(plan, b"you") == Range(5, 1)
    assert take(plan, b"you") is None
    plan.give_back(Range(5, 1), b"you")
    assert take(plan, b"you") == Range(5, 1)
    assert plan.holds(b"you", WHOLE)
    assert take(plan, b"you") is not None


def test_what_a_lost_fellow_held_is_rare_again() -> None:
    plan = shared(b"a", b"b")
    plan.holds(b"b", Held(groups=(1 << 128) - 1, count=128))
    plan.lost(b"b")
    order = asked(plan, b"source")
    assert sorted(order) == list(range(128))


def test_what_is_held_is_told_in_whole_groups() -> None:
    plan, leaves = ready(256 * LEAF_BYTES)
    assert plan.held() == Held() and plan.group_leaves == 2
    plan.accept_leaf(4, leaves[4])
    assert plan.held() == Held()
    plan.accept_leaf(5, leaves[5])
    assert plan.held() == Held(groups=0b100, count=1)
    wanted = take(plan, b"source")
    assert wanted is not None and plan.held().coming == 1 << wanted.first // 2
    for index, leaf in enumerate(leaves):
        plan.accept_leaf(index, leaf)
    assert plan.held() == WHOLE
    only, _ = ready(256 * LEAF_BYTES, leaves=[7])
    assert only.held().count == 127, "what is not wanted is here already"


@pytest.mark.parametrize("seed", range(40))
def test_with_fellows_that_come_and_go_nothing_is_lost(seed: int) -> None:
    random, plan = Random(seed), shared(b"me", count=64)
    keys = [bytes((number,)) for number in range(1 + seed % 5)]
    flying: list[tuple[Range, bytes]] = []
    for step in range(2000):
        if not any(plan.is_missing(index) for index in range(64)):
            break
        asker = random.choice([*keys, b"source"])
        match random.randrange(6):
            case 0 if asker != b"source":
                plan.met(asker)
                plan.holds(asker, Held(random.getrandbits(64), 1, random.getrandbits(64)))
            case 1 if asker != b"source":
                plan.lost(asker)
            case 2 | 3 if flying:
                wanted, whom = flying.pop(random.randrange(len(flying)))
                if random.random() < 0.7:
                    plan.hold(wanted.first)
                plan.give_back(wanted, whom)
            case _:
                if (found := plan.take(asker, now=float(step), patience_seconds=1.0)) is not None:
                    flying.append((found, asker))
    else:
        for wanted, whom in flying:
            plan.give_back(wanted, whom)
        for index in asked(plan, b"source"):
            assert 0 <= index < 64
    assert not any(plan.is_missing(index) for index in range(64))
