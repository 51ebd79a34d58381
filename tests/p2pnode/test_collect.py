"""The rule "collect, then agree" (p2pnode/collect.py), one test a letter, and what it measures (p2pnode/arrivals.py)."""

from p2pnode.arrivals import AUTHORS_MAX, SAMPLES, Arrivals
from p2pnode.collect import Collecting, is_waited_for, overdue, start_moment

A, B, C, D = b"a", b"b", b"c", b"d"


def collecting(expected, held, *, proven=None, pending_since=None, opened=100.0, usual=None):
    return Collecting(
        expected=frozenset(expected),
        proven=frozenset(expected if proven is None else proven),
        held=held,
        opened=opened,
        pending_since=pending_since,
        round_seconds_max=60,
        usual=usual or {},
    )


def moment(expected, held, **keywords):
    return start_moment(collecting(expected, held, **keywords))


def test_nothing_pending_starts_nothing():
    assert moment([A, B], {}) is None


def test_a_all_expected_are_held():
    assert moment([A, B], {A: 102.0, B: 103.0}) == 103.0


def test_a_nobody_expected_waits_for_nobody():
    assert moment([], {D: 104.0}) == 104.0


def test_b_more_than_half_plus_half_their_time():
    assert moment([A, B, C, D], {A: 102.0, B: 103.0, C: 104.0}) == 106.0


def test_b_waits_at_least_half_a_second():
    assert moment([A, B, C, D], {A: 100.1, B: 100.1, C: 100.2}) == 100.7


def test_b_exactly_half_is_not_more_than_half():
    assert moment([A, B, C, D], {A: 102.0, B: 103.0}) == 162.0


def test_b_a_strangers_word_holds_up_those_proven_for_a_while_only():
    assert moment([A, C, D], {A: 101.0}, proven=[A]) == 103.0
    assert moment([A, B, C, D], {A: 101.0}, proven=[A, B]) == 161.0
    assert moment([A, C], {A: 101.0, C: 101.5}, proven=[A]) == 101.5


def test_b_a_crowd_of_quick_strangers_does_not_start_without_those_proven():
    crowd = {b"%d" % n: 100.1 for n in range(20)}
    assert moment([A, B, C, *crowd], crowd, proven=[A, B, C]) == 160.1
    assert moment([A, B, C, *crowd], {**crowd, A: 104.0}, proven=[A, B, C]) == 160.1
    assert moment([A, B, C, *crowd], {**crowd, A: 104.0, B: 106.0}, proven=[A, B, C]) == 109.0
    assert moment([A, *crowd], crowd, proven=[]) == 100.6


def test_c_the_longest_wait_after_the_first():
    assert moment([A, B, C], {D: 105.0}) == 165.0


def test_e_evidence_waits_three_seconds_where_nobody_trains():
    assert moment([], {}, pending_since=101.0) == 104.0
    assert moment([D], {}, proven=[], pending_since=101.0) == 104.0


def test_e_evidence_travels_with_the_round_while_somebody_trains():
    assert moment([A, B], {}, pending_since=101.0) == 161.0
    assert moment([A, B], {A: 102.0, B: 103.0}, pending_since=101.0) == 103.0


def test_d_what_lists_nobody_waits_for_c_or_e():
    assert not overdue(collecting([A, B], {}), 1e9)
    assert not overdue(collecting([A, B], {A: 102.0, B: 103.0}), 161.9) and overdue(collecting([A], {A: 102.0}), 162.0)
    assert not overdue(collecting([A], {}, pending_since=101.0), 160.9)
    assert overdue(collecting([A], {}, pending_since=101.0), 161.0)
    assert overdue(collecting([], {}, pending_since=101.0), 104.0)


USUAL = {A: 4.0, B: 4.0, C: 4.0, D: 6.0}


def test_b_who_is_known_to_need_longer_is_waited_for_until_then_and_a_quarter_more():
    held = {A: 104.0, B: 104.0, C: 104.0}
    assert moment([A, B, C, D], held, usual=USUAL) == 107.5
    assert (
        moment([A, B, C, D], held, usual={**USUAL, D: 2.0}) == 104.5
    )  # should be here already: something is wrong with it
    assert moment([A, B, C, D], held, usual={A: 4.0}) == 106.0  # not measured


def test_b_nobody_is_waited_for_longer_than_twice_what_the_majority_took():
    held = {A: 104.0, B: 104.0, C: 104.0}
    assert moment([A, B, C, D], held, usual={**USUAL, D: 6.4}) == 108.0
    assert moment([A, B, C, D], held, usual={**USUAL, D: 8.0}) == 108.0
    assert moment([A, B, C, D], held, usual={**USUAL, D: 8.1}) == 104.5
    assert moment([A, B, C, D], held, usual={**USUAL, D: 1e9}) == 104.5


def test_c_follows_what_a_majority_usually_takes_however_long_or_short():
    assert moment([A, B, C, D], {A: 104.0}, usual=USUAL) == 112.0
    assert moment([A, B, C, D], {A: 104.0}, usual=dict.fromkeys([A, B, C], 3600.0)) == 100.0 + 3 * 3600
    assert moment([A, B, C, D], {A: 104.0}, usual={A: 4.0, B: 4.0}) == 164.0  # half is no majority
    assert moment([A, B, C, D], {A: 150.0}, usual=USUAL) == 150.5  # all are late: what is held is used
    assert moment([A, B, C, D], {A: 104.0}, usual={**USUAL, D: 1e9}) == 112.0  # one cannot make all wait


def test_e_waits_no_longer_than_c_would():
    assert moment([A, B], {}, pending_since=101.0, usual=USUAL) == 113.0


def test_a_strangers_claim_is_believed_three_times_and_a_members_again_and_again_but_ever_more_seldom():
    assert [claims for claims in range(40) if is_waited_for(claims, is_member=False)] == [0, 1, 2]
    assert [claims for claims in range(40) if is_waited_for(claims, is_member=True)] == [0, 1, 2, 4, 8, 16, 32]


def test_the_longest_of_the_last_few_arrivals_is_what_is_usual():
    arrivals = Arrivals()
    for seconds in (2.0, 9.0, 3.0):
        arrivals.note({A: 100.0 + seconds}, opened=100.0, missed=[], until=120.0)
    assert arrivals.usual([A, B]) == {A: 9.0}
    for _ in range(SAMPLES):
        arrivals.note({A: 104.0}, opened=100.0, missed=[], until=120.0)
    assert arrivals.usual([A]) == {A: 4.0} and arrivals.usual([B]) == {}


def test_who_was_waited_for_in_vain_takes_longer_than_that():
    arrivals = Arrivals()
    arrivals.note({A: 102.0, B: 102.0}, opened=100.0, missed=[], until=103.0)
    arrivals.note({A: 202.0}, opened=200.0, missed=[A, B, C], until=204.0)
    assert arrivals.usual([A, B, C]) == {A: 2.0, B: 4.0, C: 4.0}


def test_no_more_authors_are_remembered_than_a_block_lists():
    arrivals = Arrivals()
    arrivals.note({b"%d" % n: 101.0 for n in range(AUTHORS_MAX + 9)}, opened=100.0, missed=[], until=102.0)
    assert len(arrivals.usual([b"%d" % n for n in range(AUTHORS_MAX + 9)])) == AUTHORS_MAX
