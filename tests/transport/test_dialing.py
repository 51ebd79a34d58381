"""The dial plan as pure values: who is due when, for how long one waits, and what is given up."""

import math
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as some

from transport import limits
from transport.address import Address
from transport.dialing import DialFailure, DialPlan, Target
from transport.identity import Identity, PublicKey, node_id

KEYS = sorted((Identity(bytes((n,)) * 32).public_key for n in range(1, 12)), key=node_id)
ME, LOWER, HIGHER = KEYS[5], KEYS[:5], KEYS[6:]


def place(port: int) -> Address:
    return Address("127.0.0.1", port)


def make() -> DialPlan:
    return DialPlan(ME, Random(7))


def due(plan: DialPlan, now: float = 0.0, connected: set[PublicKey] | None = None) -> list[Target]:
    return plan.due(now, connected or set())


def fail(
    plan: DialPlan, target: Target, *, now: float, alone: bool = False, how: DialFailure = DialFailure.REFUSED
) -> float:
    """Fail it, and say for how long it then waits."""
    plan.failed(target, how, now=now, alone=alone)
    return target.at - now


def exhaust(plan: DialPlan, target: Target, *, alone: bool = False, times: int = 12) -> list[float]:
    waits, now = [], 0.0
    for _ in range(times):
        waits.append(fail(plan, target, now=now, alone=alone))
        now = target.at
        assert due(plan, now) == [target]
    return waits


def test_what_is_offered_is_dialed_once() -> None:
    plan = make()
    plan.offer(place(1), key=None, now=0.0, is_bootstrap=True)
    plan.offer(place(1), key=None, now=0.0, is_bootstrap=True)
    assert [t.address for t in due(plan)] == [place(1)]
    assert due(plan, 1e9) == []
    assert plan.wake_at(set()) == math.inf


def test_the_lower_id_goes_first() -> None:
    plan = make()
    plan.offer(place(1), key=HIGHER[0], now=0.0)
    plan.offer(place(2), key=LOWER[0], now=0.0)
    assert [t.address for t in due(plan)] == [place(1)]
    assert plan.wake_at(set()) == limits.HEAD_START_SECONDS
    assert [t.address for t in due(plan, limits.HEAD_START_SECONDS)] == [place(2)]


def test_who_is_connected_or_being_dialed_is_left_alone() -> None:
    plan = make()
    plan.offer(place(1), key=HIGHER[0], now=0.0)
    plan.offer(place(2), key=HIGHER[0], now=0.0)
    plan.offer(place(3), key=HIGHER[1], now=0.0)
    assert [t.address for t in due(plan, 0.0, {HIGHER[1]})] == [place(1)]
    assert plan.wake_at({HIGHER[1]}) == math.inf, "the same node's other address must not keep the dialer awake"


def test_an_address_that_is_mine_is_never_dialed_again() -> None:
    plan = make()
    plan.offer(place(1), key=None, now=0.0, is_bootstrap=True)
    (target,) = due(plan)
    assert plan.failed(target, DialFailure.MYSELF, now=0.0, alone=True)
    plan.offer(place(1), key=HIGHER[0], now=1.0)
    assert (len(plan), plan.is_mine(place(1))) == (0, True)


def test_my_own_key_is_not_dialed() -> None:
    plan = make()
    plan.offer(place(1), key=ME, now=0.0)
    assert len(plan) == 0


@pytest.mark.parametrize(
    ("role", "cap"),
    [
        ("bootstrap alone", limits.BACKOFF_ALONE_SECONDS_MAX),
        ("bootstrap", limits.BACKOFF_MEMBER_SECONDS_MAX),
        ("member without quorum", limits.BACKOFF_QUORUM_SECONDS_MAX),
        ("member", limits.BACKOFF_MEMBER_SECONDS_MAX),
        ("other", limits.BACKOFF_OTHER_SECONDS_MAX),
    ],
)
def test_waits_grow_to_the_cap_of_the_role(role: str, cap: float) -> None:
    plan = make()
    if role.startswith("member"):
        plan.set_members([HIGHER[0]], 0.0)
        plan.set_quorum(role == "member", 0.0)
    plan.offer(place(1), key=HIGHER[0], now=0.0, is_bootstrap=role.startswith("bootstrap"))
    (target,) = due(plan)
    waits = exhaust(plan, target, alone=role == "bootstrap alone")
    assert limits.BACKOFF_SECONDS / 2 <= waits[0] <= limits.BACKOFF_SECONDS
    assert all(cap / 2 <= wait <= cap for wait in waits[-2:])
    assert len(set(waits)) == len(waits), "without jitter all nodes come at once"


def test_losing_the_quorum_shortens_waits_that_have_begun() -> None:
    plan = make()
    plan.set_members([HIGHER[0]], 0.0)
    plan.set_quorum(True, 0.0)
    plan.offer(place(1), key=HIGHER[0], now=0.0)
    (target,) = due(plan)
    exhaust(plan, target)
    waited = fail(plan, target, now=1000.0)
    assert waited > limits.BACKOFF_QUORUM_SECONDS_MAX
    plan.set_quorum(False, 1000.0)
    assert target.at <= 1000.0 + limits.BACKOFF_QUORUM_SECONDS_MAX


def test_strangers_are_given_up_and_members_and_bootstraps_never() -> None:
    plan = make()
    plan.set_members([HIGHER[1]], 0.0)
    plan.offer(place(1), key=HIGHER[0], now=0.0)
    plan.offer(place(2), key=HIGHER[1], now=0.0)
    plan.offer(place(3), key=None, now=0.0, is_bootstrap=True)
    targets = due(plan)
    assert len(targets) == 3
    for _ in range(limits.DIAL_TRIES_MAX):
        given_up = {t.address.port for t in targets if plan.failed(t, DialFailure.TIMED_OUT, now=0.0, alone=False)}
    assert given_up == {1}
    assert len(plan) == 2


def test_a_stranger_of_another_network_is_given_up_at_once() -> None:
    plan = make()
    plan.offer(place(1), key=HIGHER[0], now=0.0)
    (target,) = due(plan)
    assert plan.failed(target, DialFailure.WRONG_NETWORK, now=0.0, alone=False)


def test_a_bootstrap_may_answer_with_another_key_next_time() -> None:
    plan = make()
    plan.offer(place(1), key=None, now=0.0, is_bootstrap=True)
    (target,) = due(plan)
    plan.succeeded(target, HIGHER[0], 0.0)
    assert due(plan, 1.0, {HIGHER[0]}) == []
    plan.lost(HIGHER[0], 100.0)
    (target,) = due(plan, 101.0)
    plan.failed(target, DialFailure.BAD_CERTIFICATE, now=101.0, alone=True)
    assert target.key is None


def test_a_lost_peer_is_dialed_soon_and_one_that_hangs_up_again_and_again_is_not() -> None:
    plan = make()
    plan.offer(place(1), key=HIGHER[0], now=0.0)
    (target,) = due(plan)
    now = 0.0
    plan.succeeded(target, HIGHER[0], now)
    plan.lost(HIGHER[0], limits.LASTING_SECONDS)
    assert target.at <= limits.LASTING_SECONDS + limits.BACKOFF_SECONDS
    for _ in range(10):
        now = target.at
        assert due(plan, now) == [target]
        plan.succeeded(target, HIGHER[0], now)
        plan.lost(HIGHER[0], now + 0.1)
    assert target.at - now > 60.0


def test_at_most_so_many_at_once() -> None:
    plan = make()
    for port in range(1, 30):
        plan.offer(place(port), key=None, now=0.0, is_bootstrap=True)
    first = due(plan)
    assert len(first) == limits.DIALS_MAX
    assert plan.wake_at(set()) == math.inf
    plan.failed(first[0], DialFailure.REFUSED, now=0.0, alone=True)
    assert len(due(plan)) == 1


def peers_of(count: int) -> set[PublicKey]:
    return {PublicKey(bytes((n,)) * 32) for n in range(count)}


def reach(plan: DialPlan, count: int, *, now: float = 0.0) -> set[PublicKey]:
    """So many links of our own to strangers on this machine."""
    keys = {Identity(bytes((n,)) * 32).public_key for n in range(100, 100 + count)}
    for port, key in enumerate(sorted(keys)):
        plan.offer(place(1000 + port), key=key, now=now)
    linked: set[PublicKey] = set()
    while targets := due(plan, now + 1, linked):
        for target in targets:
            assert target.key is not None
            plan.succeeded(target, target.key, now + 1)
            linked.add(target.key)
    assert linked == keys
    return keys


def test_when_there_are_peers_enough_only_members_are_dialed() -> None:
    plan = make()
    plan.set_members([HIGHER[1]], 0.0)
    linked = reach(plan, limits.OUTBOUND_PEERS_MIN)
    plan.offer(place(1), key=HIGHER[0], now=0.0)
    plan.offer(place(2), key=HIGHER[1], now=0.0)
    plan.offer(place(3), key=None, now=0.0, is_bootstrap=True)
    many = linked | peers_of(limits.OUTBOUND_PEERS_MAX - len(linked))
    assert plan.is_full(many)
    assert plan.strangers_wanted(many) == 0
    assert {t.address.port for t in due(plan, 0.0, many)} == {2}


def test_who_fills_our_places_for_callers_does_not_choose_all_of_our_peers() -> None:
    plan = make()
    plan.offer(place(1), key=HIGHER[0], now=0.0)
    many = peers_of(limits.OUTBOUND_PEERS_MAX)
    assert not plan.is_full(many)
    assert plan.strangers_wanted(many) == limits.CANDIDATES_READY - 1
    assert [t.address.port for t in due(plan, 0.0, many)] == [1]


def test_a_bootstrap_address_is_not_needed_once_there_are_some_peers() -> None:
    plan = make()
    plan.offer(place(1), key=None, now=0.0, is_bootstrap=True)
    assert due(plan, 0.0, peers_of(limits.SEEDED_PEERS_MIN)) == []
    assert plan.wake_at(peers_of(limits.SEEDED_PEERS_MIN)) == math.inf
    assert len(due(plan, 0.0, peers_of(limits.SEEDED_PEERS_MIN - 1))) == 1


def test_into_one_netgroup_of_the_internet_leads_one_link_to_a_stranger() -> None:
    plan = make()
    plan.set_members([HIGHER[2]], 0.0)
    plan.set_quorum(True, 0.0)
    for number, host in enumerate(("93.184.1.1", "93.184.2.2", "93.184.3.3", "8.8.8.8")):
        plan.offer(Address(host, 1), key=HIGHER[number], now=0.0)
    plan.offer(Address("93.184.4.4", 1), key=None, now=0.0, is_bootstrap=True)
    chosen = due(plan)
    assert {t.address.host for t in chosen} == {"93.184.1.1", "93.184.3.3", "8.8.8.8", "93.184.4.4"}, (
        "members and whom the operator named are free"
    )
    assert due(plan) == []
    assert plan.groups(set()) == {b"4:" + bytes((93, 184)), b"4:" + bytes((8, 8))}
    stranger = chosen[[t.key for t in chosen].index(HIGHER[0])]
    plan.succeeded(stranger, HIGHER[0], 1.0)
    assert due(plan, 100.0, {HIGHER[0]}) == []
    assert plan.wake_at({HIGHER[0]}) == math.inf
    plan.lost(HIGHER[0], 100.0)
    assert [t.address.host for t in due(plan, 100.1)] == ["93.184.2.2"], "the next of that netgroup has its turn"


def test_on_one_machine_or_site_there_are_as_many_as_one_likes() -> None:
    plan = make()
    for number, host in enumerate(("127.0.0.1", "127.0.0.1", "10.0.0.1", "10.0.0.2")):
        plan.offer(Address(host, number + 1), key=HIGHER[number], now=0.0)
    assert len(due(plan)) == 4
    assert plan.groups(set()) == set()


def test_anchors_go_first_and_are_the_oldest_links_into_different_netgroups() -> None:
    plan = make()
    plan.offer(Address("8.8.8.8", 1), key=HIGHER[0], now=0.0)
    plan.offer(Address("9.9.9.9", 1), key=LOWER[0], now=0.0, is_anchor=True)
    first, second = due(plan)
    assert (first.key, second.key) == (LOWER[0], HIGHER[0])
    plan.succeeded(second, HIGHER[0], 1.0)
    plan.succeeded(first, LOWER[0], 2.0)
    plan.set_members([HIGHER[1], HIGHER[2]], 0.0)
    for number, host in enumerate(("8.8.4.4", "7.7.7.7"), start=1):
        plan.offer(Address(host, 1), key=HIGHER[number], now=0.0)
    for target in due(plan, 3.0, {HIGHER[0], LOWER[0]}):
        assert target.key is not None
        plan.succeeded(target, target.key, 3.0)
    assert [t.address.host for t in plan.anchors()] == ["8.8.8.8", "9.9.9.9"]
    plan.lost(HIGHER[0], 4.0)
    assert [t.address.host for t in plan.anchors()] == ["9.9.9.9", "8.8.4.4"]


def test_alone_nobody_is_given_up_and_nobody_waited_for_long() -> None:
    plan = make()
    plan.offer(place(1), key=HIGHER[0], now=0.0)
    (target,) = due(plan)
    waits = exhaust(plan, target, alone=True, times=3 * limits.DIAL_TRIES_MAX)
    assert max(waits) <= limits.BACKOFF_MEMBER_SECONDS_MAX
    assert not plan.failed(target, DialFailure.REFUSED, now=0.0, alone=False), "nor as soon as it is not"


def test_who_becomes_alone_does_not_wait_for_what_was_planned_in_company() -> None:
    plan = make()
    plan.offer(place(1), key=HIGHER[0], now=0.0)
    (target,) = due(plan)
    exhaust(plan, target)
    plan.failed(target, DialFailure.REFUSED, now=1000.0, alone=False)
    assert target.at > 1000.0 + limits.BACKOFF_MEMBER_SECONDS_MAX
    plan.now_alone(1000.0)
    assert target.at <= 1000.0 + limits.BACKOFF_MEMBER_SECONDS_MAX


def test_a_feeler_is_one_look_within_the_same_limits() -> None:
    plan = make()
    target = plan.feel(place(1), HIGHER[0])
    assert target is not None
    assert plan.feel(place(1), HIGHER[0]) is None
    plan.offer(place(1), key=HIGHER[1], now=0.0)
    assert due(plan) == [], "nobody else dials that address meanwhile"
    plan.felt(target)
    assert len(plan) == 1
    assert [t.key for t in due(plan)] == [HIGHER[1]]
    for port in range(2, 30):
        plan.offer(place(port), key=None, now=0.0, is_bootstrap=True)
    due(plan)
    assert plan.feel(place(50), HIGHER[2]) is None, "all places are taken"


def test_a_feeler_leaves_a_target_as_it_was() -> None:
    plan = make()
    plan.offer(place(1), key=HIGHER[0], now=0.0)
    target = plan.feel(place(1), HIGHER[0])
    assert target is not None
    assert due(plan) == []
    plan.felt(target)
    assert due(plan) == [target]


def test_own_addresses_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OWN_ADDRESSES_MAX", 2)
    plan = make()
    for port in range(1, 4):
        plan.offer(place(port), key=None, now=0.0, is_bootstrap=True)
    for target in due(plan):
        plan.failed(target, DialFailure.MYSELF, now=0.0, alone=True)
    assert [plan.is_mine(place(port)) for port in range(1, 4)] == [False, True, True]


def test_what_failed_most_makes_room_for_who_never_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DIAL_TARGETS_MAX", 2)
    plan = make()
    assert plan.offer(place(1), key=HIGHER[0], now=0.0)
    assert plan.offer(place(2), key=HIGHER[1], now=0.0)
    assert not plan.offer(place(3), key=HIGHER[2], now=0.0)
    first, second = due(plan)
    plan.failed(first, DialFailure.REFUSED, now=0.0, alone=False)
    assert plan.offer(place(3), key=HIGHER[2], now=0.0)
    assert not plan.offer(place(1), key=HIGHER[0], now=0.0), "the other is being dialed"
    plan.set_members([HIGHER[0]], 0.0)
    assert plan.offer(place(1), key=HIGHER[0], now=0.0), "a member always"
    assert second.tries == 1


def test_the_plan_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DIAL_TARGETS_MAX", 5)
    plan = make()
    for port in range(1, 10):
        plan.offer(place(port), key=HIGHER[0], now=0.0)
    assert len(plan) == 5


def test_an_address_changes_hands() -> None:
    plan = make()
    plan.offer(place(1), key=HIGHER[0], now=0.0)
    plan.offer(place(1), key=HIGHER[1], now=5.0)
    (target,) = due(plan, 5.0)
    assert target.key == HIGHER[0], "one address is dialed once at a time"
    plan.failed(target, DialFailure.BAD_CERTIFICATE, now=5.0, alone=False, owner=HIGHER[1])
    assert [t.key for t in due(plan, 5.0)] == [HIGHER[1]]


def claims(plan: DialPlan, count: int, address: Address, *, now: float, first: int = 0) -> None:
    for number in range(first, first + count):
        plan.offer(address, key=PublicKey(number.to_bytes(32, "big")), now=now)


@pytest.mark.parametrize("owner", [None, PublicKey(b"o" * 32)])
def test_who_is_claimed_by_many_is_not_dialed_for_each(owner: PublicKey | None) -> None:
    """Keys are free: 256 claims, and a fresh one each second, made a node dial whomever somebody named a thousand times."""
    plan, dials = make(), 0
    victim = Address("203.0.113.9", 443)
    claims(plan, 256, victim, now=0.0)
    for tick in range(4 * 600):
        now = tick / 4
        claims(plan, 1, victim, now=now, first=1000 + tick // 4)
        for target in due(plan, now):
            dials += 1
            plan.failed(
                target, DialFailure.BAD_CERTIFICATE if owner else DialFailure.REFUSED, now=now, alone=False, owner=owner
            )
    assert 1 <= dials <= (1 if owner else 14)
    assert len(plan) <= (0 if owner else limits.DIAL_TARGETS_MAX)


def test_what_an_address_showed_is_forgotten_in_time_and_with_a_link() -> None:
    plan, owner = make(), PublicKey(b"o" * 32)
    plan.offer(place(1), key=LOWER[0], now=0.0)
    (target,) = due(plan, 1.0)
    assert plan.failed(target, DialFailure.BAD_CERTIFICATE, now=1.0, alone=True, owner=owner)
    assert not plan.offer(place(1), key=LOWER[1], now=2.0)
    assert plan.offer(place(1), key=owner, now=2.0), "who answers there is no false claim"
    assert plan.offer(place(1), key=LOWER[1], now=1.0 + limits.CLAIM_SECONDS)
    (target, *_) = [t for t in due(plan, 1.0 + limits.CLAIM_SECONDS) if t.key == owner]
    plan.succeeded(target, owner, 700.0)
    assert not plan.offer(place(1), key=LOWER[2], now=701.0)
    plan.lost(owner, 702.0)
    assert plan.offer(place(1), key=LOWER[2], now=703.0), "somebody else may have its place by now"


def test_what_is_shown_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DIAL_TARGETS_MAX", 5)
    plan = make()
    for number in range(50):
        plan.offer(place(number), key=LOWER[0], now=float(number))
        for target in due(plan, float(number)):
            plan.failed(target, DialFailure.REFUSED, now=float(number), alone=False)
    assert len(plan._shown) == 5


def test_a_member_is_dialed_wherever_strangers_claim_to_be() -> None:
    plan = make()
    plan.set_members([HIGHER[0]], 0.0)
    claims(plan, 10, place(1), now=0.0)
    (target,) = due(plan, 0.5)
    plan.failed(target, DialFailure.BAD_CERTIFICATE, now=0.5, alone=False, owner=HIGHER[1])
    assert plan.offer(place(1), key=HIGHER[0], now=0.5)
    assert [t.key for t in due(plan, 1.0)] == [HIGHER[0]]


@pytest.mark.parametrize("is_bootstrap", [False, True])
def test_a_claim_takes_no_address_from_its_node(is_bootstrap: bool) -> None:
    plan = make()
    plan.offer(place(1), key=None if is_bootstrap else HIGHER[0], now=0.0, is_bootstrap=is_bootstrap)
    (target,) = due(plan)
    plan.succeeded(target, HIGHER[0], 0.0)
    assert plan.bootstrap_keys() == ({HIGHER[0]} if is_bootstrap else set())
    plan.offer(place(1), key=HIGHER[1], now=1.0)
    plan.lost(HIGHER[0], 20.0)
    assert due(plan, 30.0, {HIGHER[1]}) == [target], "the liar is connected, and the address is dialed all the same"


@given(some.lists(some.tuples(some.sampled_from(["offer", "fail", "ok", "lost"]), some.integers(0, 9)), max_size=60))
def test_the_dialer_never_spins(steps: list[tuple[str, int]]) -> None:
    """Whatever happens: after `due` nothing is due any more, so the loop sleeps or has something under way."""
    plan, now = make(), 0.0
    dialing: list[Target] = []
    connected: set[PublicKey] = set()
    for what, number in steps:
        now += 0.4
        key = KEYS[number]
        match what:
            case "offer":
                plan.offer(place(number + 1), key=key, now=now, is_bootstrap=number % 3 == 0)
            case "fail" if dialing:
                plan.failed(dialing.pop(), DialFailure.REFUSED, now=now, alone=not connected)
            case "ok" if dialing:
                target = dialing.pop()
                plan.succeeded(target, target.key or key, now)
                connected.add(target.key or key)
            case "lost":
                connected.discard(key)
                plan.lost(key, now)
        dialing += plan.due(now, connected)
        assert len(dialing) <= limits.DIALS_MAX
        assert plan.wake_at(connected) > now


def urgent() -> tuple[DialPlan, Target]:
    plan = make()
    plan.set_members([HIGHER[0]], 0.0)
    plan.offer(place(1), key=HIGHER[0], now=0.0)
    (target,) = due(plan)
    return plan, target


def test_without_a_quorum_tries_of_a_member_overlap() -> None:
    """What the first try lost on a path that was cut is not waited for."""
    plan, target = urgent()
    begun = [0.0]
    while target.tries < limits.QUORUM_DIALS_MAX:
        now = plan.wake_at(set())
        assert due(plan, now) == [target]
        begun.append(now)
    assert plan.wake_at(set()) == math.inf, "enough at once"
    assert all(later - sooner <= limits.BACKOFF_QUORUM_SECONDS_MAX for sooner, later in pairwise(begun))
    assert plan.seconds_max(target) == limits.QUORUM_DIAL_SECONDS_MAX
    at = target.at
    plan.failed(target, DialFailure.TIMED_OUT, now=begun[-1], alone=False)
    assert target.at <= at, "one that ends does not put the next one off"
    plan.abandoned(target)
    plan.succeeded(target, HIGHER[0], begun[-1])
    assert due(plan, begun[-1] + 100, {HIGHER[0]}) == []


def test_with_a_quorum_one_try_is_enough() -> None:
    plan, target = urgent()
    plan.set_quorum(True, 0.0)
    assert due(plan, 100.0) == [] and plan.wake_at(set()) == math.inf
    assert plan.seconds_max(target) == math.inf


def test_a_bootstrap_address_that_is_a_members_stays_a_members_while_it_is_out_of_reach() -> None:
    plan = make()
    plan.set_members([HIGHER[0]], 0.0)
    plan.offer(place(1), key=None, now=0.0, is_bootstrap=True)
    (target,) = due(plan)
    plan.succeeded(target, HIGHER[0], 0.0)
    plan.lost(HIGHER[0], 100.0)
    (target,) = due(plan, 200.0)
    plan.failed(target, DialFailure.TIMED_OUT, now=200.0, alone=True)
    assert target.key == HIGHER[0]
    (target,) = due(plan, 300.0)
    plan.failed(target, DialFailure.BAD_CERTIFICATE, now=300.0, alone=True)
    assert target.key is None, "somebody else answers there"


def test_of_a_committee_that_is_linked_in_part_only_those_named_are_dialed_once_there_are_a_few() -> None:
    plan = make()
    plan.set_members(HIGHER, 0.0, links=HIGHER[:2])
    plan.set_quorum(True, 0.0)
    for port, key in enumerate(HIGHER, start=1):
        plan.offer(place(port), key=key, now=0.0)
    few = {Identity(bytes((n,)) * 32).public_key for n in range(100, 100 + limits.OVERLAY_PEERS_MIN)}
    assert {t.key for t in due(plan, connected=few)} == set(HIGHER[:2])
    assert {t.key for t in due(plan, connected=set(list(few)[1:]))} == set(HIGHER[2:])


def test_without_a_quorum_only_the_members_to_be_linked_to_are_hurried_to() -> None:
    plan = make()
    plan.set_members(HIGHER, 0.0, links=HIGHER[:1])
    for port, key in enumerate(HIGHER[:2], start=1):
        plan.offer(place(port), key=key, now=0.0)
    needed, other = sorted(due(plan), key=lambda t: t.address.port)
    assert plan.seconds_max(needed) == limits.QUORUM_DIAL_SECONDS_MAX
    assert plan.seconds_max(other) == math.inf
