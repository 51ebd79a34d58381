"""Which addresses count as one operator's."""

import pytest

from transport.address import Address
from transport.netgroup import ip_group, netgroup


def group(host: str, port: int = 7337) -> bytes:
    return netgroup(Address(host, port))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("93.184.1.1", "93.184.255.254"),  # a /16
        ("2a00:1450:1::1", "2a00:1450:ffff::2"),  # a /32
        ("::ffff:93.184.1.1", "93.184.2.2"),  # mapped IPv4 is IPv4
        ("10.0.0.1", "192.168.7.7"),  # all private ones
        ("fe80::1", "10.0.0.1"),
        ("127.0.0.1", "127.9.9.9"),
        ("localhost", "::1"),
    ],
)
def test_one_group(one: str, other: str) -> None:
    assert group(one) == group(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("93.184.1.1", "93.185.1.1"),
        ("2a00:1450::1", "2a00:1451::1"),
        ("10.0.0.1", "127.0.0.1"),
        ("10.0.0.1", "93.184.1.1"),
        ("one.example", "two.example"),
    ],
)
def test_two_groups(one: str, other: str) -> None:
    assert group(one) != group(other)


def test_the_port_is_no_part_of_it() -> None:
    assert group("93.184.1.1", 1) == group("93.184.1.1", 2)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("93.184.1.1", "93.184.1.1", True),
        ("93.184.1.1", "93.184.1.2", False),
        ("::ffff:93.184.1.1", "93.184.1.1", True),
        ("2a00:1450:1:2::1", "2a00:1450:1:2:ffff::9", True),  # a /64 is one line's
        ("2a00:1450:1:2::1", "2a00:1450:1:3::1", False),
    ],
)
def test_what_one_subscriber_has(one: str, other: str, is_same: bool) -> None:
    assert (ip_group(Address(one, 1)) == ip_group(Address(other, 2))) is is_same
    assert ip_group(Address(one, 1))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "localhost", "10.0.0.1", "192.168.7.7", "100.64.0.1", "fe80::1", "one.example"]
)
def test_where_addresses_say_nothing_about_who_is_there_nobody_is_limited_by_them(host: str) -> None:
    assert ip_group(Address(host, 1)) is None
