"""The keyed tables: what one netgroup can reach, and that the order of drawing favours nobody."""

from random import Random

import pytest

from transport import limits
from transport.address import Address, Scope
from transport.buckets import BucketKey, Slot, Table
from transport.identity import PublicKey
from transport.netgroup import netgroup

KEY = BucketKey(b"\x07" * 32)
INTERNET = [Address(f"{a}.{b}.1.{c}", 7337) for a in range(40, 80) for b in range(0, 250, 10) for c in range(2)]
ONE_GROUP = [Address(f"93.184.{b}.{c}", 7337) for b in range(100) for c in range(20)]


def slot(number: int) -> Slot:
    return PublicKey(number.to_bytes(32, "big")), Scope.GLOBAL


def test_from_one_netgroup_an_eighth_of_the_new_table_is_reached() -> None:
    reached = {KEY.new(address, netgroup(ONE_GROUP[0])) for address in INTERNET}
    assert 20 <= len(reached) <= limits.NEW_BUCKETS_PER_SOURCE
    assert len({KEY.new(a, netgroup(b)) for a, b in zip(INTERNET, reversed(INTERNET), strict=True)}) > 200


def test_the_addresses_of_one_netgroup_fall_into_four_buckets_of_tried() -> None:
    assert len({KEY.tried(address) for address in ONE_GROUP}) <= limits.TRIED_BUCKETS_PER_GROUP
    assert len({KEY.tried(address) for address in INTERNET}) == limits.TRIED_BUCKETS


def test_told_by_one_the_addresses_of_one_netgroup_fall_into_one_bucket_of_new() -> None:
    assert len({KEY.new(address, b"4:xx") for address in ONE_GROUP}) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1"])
def test_a_network_on_one_machine_or_site_is_not_confined(host: str) -> None:
    places = [Address(host, port) for port in range(1, 2000)]
    assert len({KEY.tried(place) for place in places}) == limits.TRIED_BUCKETS
    assert len({KEY.new(place, netgroup(places[0])) for place in places}) > limits.NEW_BUCKETS_PER_SOURCE / 2


def test_another_node_has_other_buckets() -> None:
    other = BucketKey(b"\x08" * 32)
    assert sum(KEY.tried(a) == other.tried(a) for a in INTERNET) < len(INTERNET) / 16
    with pytest.raises(ValueError, match="key of 3 bytes"):
        BucketKey(b"abc")


def test_a_bucket_fills_up() -> None:
    table = Table()
    for number in range(limits.BUCKET_ENTRIES):
        assert not table.is_full(3)
        table.put(3, slot(number))
    assert table.is_full(3)
    assert not table.is_full(4)
    assert len(table) == limits.BUCKET_ENTRIES
    table.remove(3, slot(7))
    assert slot(7) not in table[3]
    assert table[4] == ()
    assert (len(table), len(table[3])) == (limits.BUCKET_ENTRIES - 1,) * 2


def test_full_buckets_get_no_more_of_the_first_places() -> None:
    table = Table()
    for number in range(60):
        table.put(0, slot(number))
    for bucket in range(1, 10):
        table.put(bucket, slot(100 * bucket))
    drawn = list(table.shuffled(Random(1)))
    assert len(drawn) == len(set(drawn)) == len(table) == 69
    assert sum(one in table[0] for one in drawn[:10]) == 1
