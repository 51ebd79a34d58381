"""The rule "collect, then agree" (p2pnode/collect.py), one test a letter."""

from p2pnode.collect import Collecting, overdue, start_moment

A, B, C, D = b"a", b"b", b"c", b"d"


def collecting(expected, held, *, proven=None, pending_since=None, opened=100.0):
    return Collecting(
        expected=frozenset(expected),
        proven=frozenset(expected if proven is None else proven),
        held=held,
        opened=opened,
        pending_since=pending_since,
        round_seconds_max=60,
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
