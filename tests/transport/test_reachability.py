"""What answers of peers add up to, without sockets: whom to ask, what is a yes, and when an address is one's own."""

from __future__ import annotations

import math
import struct
from random import Random

import pytest

from transport import limits
from transport.address import Address, Scope
from transport.errors import Malformed
from transport.reachability import Reachability, Result, Verdict, decode_question, encode_answer

HOME = Address("8.8.4.4", 51000)  # where strangers see this node
FAR = [Address(f"{first}.1.2.3", 7337) for first in (11, 12, 13, 14)]  # four netgroups
PORT = 7337
GATHERED = limits.DIAL_BACK_GATHER_SECONDS


def key(number: int) -> bytes:
    return bytes((number,)) * 32


class Stage:
    """A node and its peers, at a time that is said."""

    def __init__(self, *peers: Address, announced: Address | None = None, seen: Address | None = HOME) -> None:
        self.subject = Reachability(Random(1), announced=announced)
        self.now = 0.0
        for number, remote in enumerate(peers):
            self.meet(number, remote, seen=seen)

    def meet(self, number: int, remote: Address, *, seen: Address | None = HOME) -> None:
        self.subject.met(key(number), remote=remote, seen=seen, now=self.now)

    def ask(self, at: float) -> dict[int, int]:
        """Who is asked at that time, and with which nonce."""
        self.now = at
        frames = {k[0]: self.subject.ask(k, port=PORT, now=at) for k in self.subject.whom(at)}
        return {number: decode_question(frame[5:])[0] for number, frame in frames.items()}

    def answer(self, number: int, nonce: int, result: Result, *, clock: float = 0.0) -> None:
        self.subject.answered(key(number), encode_answer(nonce, result, 1000.0 + clock)[5:], unix_seconds=1000.0)

    def reached(self, number: int, nonce: int) -> None:
        self.subject.came(key(number), self.now)
        self.answer(number, nonce, Result.REACHED)


def test_nobody_is_asked_at_once_and_three_after_a_moment() -> None:
    stage = Stage(*FAR)
    assert stage.ask(0.0) == {}
    assert stage.subject.wake_at(0.0) == GATHERED
    assert len(stage.ask(GATHERED)) == limits.DIAL_BACK_PEERS
    assert stage.ask(GATHERED) == {}, "and nobody twice"


def test_those_from_afar_are_asked_first_and_of_different_netgroups() -> None:
    near = [Address("127.0.0.1", 1), Address("192.168.1.5", 2)]
    neighbours = [Address("11.1.9.9", 3), Address("11.1.8.8", 4), Address("12.7.7.7", 5)]
    asked = Stage(*near, *neighbours).ask(GATHERED)
    assert set(asked) == {2, 3, 4}
    many = Stage(*[Address(f"11.1.0.{n}", 9) for n in range(1, 20)], Address("12.7.7.7", 5), Address("13.7.7.7", 5))
    assert {19, 20} <= set(many.ask(GATHERED)), "an operator with many addresses is asked once"


def test_a_yes_is_what_came_and_names_how_many() -> None:
    stage = Stage(*FAR[:2])
    asked = stage.ask(GATHERED)
    assert stage.subject.reach().asked == 2
    for number, nonce in asked.items():
        stage.reached(number, nonce)
    reach = stage.subject.reach()
    assert (reach.verdict, reach.peers, reach.failed, reach.scope) == (Verdict.YES, 2, 0, Scope.GLOBAL)
    assert reach.address == Address("8.8.4.4", PORT)


def test_a_claim_is_nothing_and_a_probe_without_an_answer_is_enough() -> None:
    stage = Stage(FAR[0], FAR[1])
    (one, nonce), (other, _) = stage.ask(GATHERED).items()
    stage.answer(one, nonce, Result.REACHED)
    assert stage.subject.reach().verdict is Verdict.UNKNOWN
    stage.subject.came(key(other), GATHERED + 1)
    assert stage.subject.reach().verdict is Verdict.YES
    stage.subject.came(key(3), GATHERED + 1)
    assert stage.subject.reach().peers == 1, "a probe of somebody who was not asked says nothing about who was"


def test_a_no_has_the_commonest_reason_and_one_who_came_outweighs_two_who_say_no() -> None:
    stage = Stage(*FAR[:3])
    asked = stage.ask(GATHERED)
    for (number, nonce), result in zip(
        asked.items(), (Result.TIMED_OUT, Result.REFUSED, Result.TIMED_OUT), strict=True
    ):
        stage.answer(number, nonce, result)
    reach = stage.subject.reach()
    assert (reach.verdict, reach.failed, reach.result) == (Verdict.NO, 3, Result.TIMED_OUT)
    stage.subject.came(key(next(iter(asked))), GATHERED + 1)
    assert (stage.subject.reach().verdict, stage.subject.reach().failed) == (Verdict.YES, 2)


def test_whoever_is_busy_or_silent_is_replaced() -> None:
    stage = Stage(*FAR[:1])
    ((number, nonce),) = stage.ask(GATHERED).items()
    stage.answer(number, nonce, Result.BUSY)
    assert stage.subject.reach().verdict is Verdict.UNKNOWN
    stage.meet(1, FAR[1])
    assert set(stage.ask(GATHERED + 1)) == {1}
    late = GATHERED + 1 + limits.DIAL_BACK_SECONDS_MAX
    assert stage.subject.wake_at(GATHERED + 1) <= late
    stage.meet(2, FAR[2])
    stage.meet(3, FAR[3])
    assert set(stage.ask(late)) == {2, 3}, "and the silent one's place is given away, too"


def test_it_is_asked_again_soon_where_closed_and_later_where_open() -> None:
    closed, opened = Stage(FAR[0]), Stage(FAR[0])
    ((_, nonce),) = closed.ask(GATHERED).items()
    closed.answer(0, nonce, Result.TIMED_OUT)
    ((_, nonce),) = opened.ask(GATHERED).items()
    opened.reached(0, nonce)
    soon, later = GATHERED + limits.DIAL_BACK_AGAIN_SECONDS, GATHERED + limits.DIAL_BACK_CHECK_SECONDS
    assert closed.subject.wake_at(GATHERED) == soon
    assert opened.subject.wake_at(GATHERED) == later
    assert set(closed.ask(soon)) == {0}
    assert opened.ask(soon) == {}
    assert closed.subject.reach().verdict is Verdict.UNKNOWN, "while the new answer is waited for"
    ((_, nonce),) = opened.ask(later).items()
    opened.answer(0, nonce, Result.REFUSED)
    assert opened.subject.reach().verdict is Verdict.NO, "a port that was closed since is noticed"


def test_an_answer_comes_once_and_to_what_was_asked() -> None:
    stage = Stage(FAR[0])
    ((_, nonce),) = stage.ask(GATHERED).items()
    for wrong in (nonce + 1, 0):
        with pytest.raises(Malformed):
            stage.answer(0, wrong, Result.REFUSED)
    stage.answer(0, nonce, Result.REFUSED)
    with pytest.raises(Malformed):
        stage.answer(0, nonce, Result.REFUSED)
    with pytest.raises(Malformed):
        stage.answer(1, nonce, Result.REFUSED)


def test_who_is_gone_is_not_waited_for() -> None:
    stage = Stage(FAR[0])
    stage.ask(GATHERED)
    stage.subject.lost(key(0))
    assert stage.subject.reach().asked == 0
    assert stage.ask(GATHERED + 1000) == {}
    assert stage.subject.wake_at(GATHERED + 1000) == math.inf


def test_only_the_last_answers_are_kept_whoever_comes_and_goes() -> None:
    stage = Stage()
    for number in range(200):
        stage.meet(number, Address(f"{number % 100 + 11}.1.2.3", 7337))
        for asked, nonce in stage.ask(1000.0 * number + 1000).items():
            stage.answer(asked, nonce, Result.TIMED_OUT)
        stage.subject.lost(key(number))
    assert len(stage.subject._askings) <= limits.DIAL_BACK_ANSWERS_MAX
    assert stage.subject._peers == {}


def test_clocks_are_compared_and_one_liar_does_not_matter() -> None:
    stage = Stage(*FAR[:3])
    for (number, nonce), ahead in zip(stage.ask(GATHERED).items(), (2.0, 2.5, 1e9), strict=True):
        stage.answer(number, nonce, Result.REFUSED, clock=ahead)
    assert stage.subject.reach().clock_seconds == 2.5


def test_failures_elsewhere_than_at_the_announced_address_say_nothing() -> None:
    stage = Stage(FAR[0], announced=Address("9.9.9.9", PORT))
    ((_, nonce),) = stage.ask(GATHERED).items()
    stage.answer(0, nonce, Result.TIMED_OUT)
    reach = stage.subject.reach()
    assert (reach.verdict, reach.address) == (Verdict.UNKNOWN, Address("8.8.4.4", PORT))


def test_an_address_is_ones_own_when_two_netgroups_see_it_and_one_came_in_by_it() -> None:
    stage = Stage(FAR[0], Address("11.1.99.99", 5))
    for number, nonce in stage.ask(GATHERED).items():
        stage.reached(number, nonce)
    assert stage.subject.own_address() is None, "two of one netgroup are one"
    stage.meet(2, FAR[1])
    assert stage.subject.own_address() == Address("8.8.4.4", PORT)
    stage.meet(3, FAR[2], seen=Address("9.9.9.9", 1))
    assert stage.subject.own_address() == Address("8.8.4.4", PORT)
    stage.meet(4, FAR[3], seen=Address("9.9.9.9", 1))
    assert stage.subject.own_address() is None, "as many say another: who knows"


def test_so_many_netgroups_must_see_it_and_no_fewer() -> None:
    for count in range(1, 5):
        stage = Stage(*FAR[:count])
        for number, nonce in stage.ask(GATHERED).items():
            stage.reached(number, nonce)
        assert (stage.subject.own_address() is not None) == (count >= limits.OWN_ADDRESS_GROUPS_MIN)


def test_an_address_that_nobody_has_come_in_by_is_not_ones_own() -> None:
    stage = Stage(*FAR[:3])
    for number, nonce in stage.ask(GATHERED).items():
        stage.answer(number, nonce, Result.TIMED_OUT)
    assert stage.subject.own_address() is None


def test_what_peers_of_this_network_or_machine_see_is_no_address_for_the_world() -> None:
    near = Stage(Address("192.168.1.5", 2), Address("127.0.0.1", 3), seen=Address("192.168.1.2", 4))
    for number, nonce in near.ask(GATHERED).items():
        near.reached(number, nonce)
    assert near.subject.reach().scope is Scope.PRIVATE
    assert near.subject.own_address() is None
    for wrong in (bytes(9), bytes(10), struct.pack(">QH", 1, 0)):
        with pytest.raises(Malformed):
            decode_question(wrong)
