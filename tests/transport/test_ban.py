"""Bans: short, bounded, and of one name."""

import pytest

from transport import limits
from transport.ban import Ban


def test_it_holds_for_its_time_and_its_name_only() -> None:
    ban = Ban(limits.BAN_SECONDS)
    ban.add(b"a", 10.0)
    assert ban.holds(b"a", 10.0)
    assert ban.holds(b"a", 10.0 + limits.BAN_SECONDS - 1)
    assert not ban.holds(b"a", 10.0 + limits.BAN_SECONDS)
    assert not ban.holds(b"b", 10.0)


def test_a_second_proof_begins_the_time_anew() -> None:
    ban = Ban(30.0)
    ban.add(b"a", 0.0)
    ban.add(b"a", 20.0)
    assert ban.holds(b"a", 49.0) and not ban.holds(b"a", 50.0)


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BANS_MAX", 3)
    ban = Ban(1.0)
    for number in range(5):
        ban.add(bytes((number,)), 0.0)
    assert [ban.holds(bytes((number,)), 0.0) for number in range(5)] == [False, False, True, True, True]
