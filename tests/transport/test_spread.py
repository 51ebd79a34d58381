"""Who passes on which piece."""

from transport.spread import relays


def test_every_leaf_has_a_relay_and_no_relay_more_than_its_share() -> None:
    others = [bytes([i]) for i in range(99)]
    chosen = relays(others, 16)
    assert len(chosen) == 16
    assert len(set(chosen)) == 16
    few = relays(others[:3], 16)
    assert {few.count(key) for key in others[:3]} <= {5, 6}
    assert relays(others, 0) == []
