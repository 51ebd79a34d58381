"""Which addresses count as one operator's."""

import pytest

from transport.address import Address
from transport.netgroup import netgroup


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
