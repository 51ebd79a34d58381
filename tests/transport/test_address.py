"""Addresses: text and packed forms, and who may hear of which."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from transport import address as addresses
from transport import limits
from transport.address import PACKED_BYTES, Address, Scope, may_hear
from transport.errors import Malformed, UserError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:7337", "127.0.0.1", 7337), ("[::1]:80", "::1", 80), ("node.example:1", "node.example", 1)],
)
def test_text_and_back(text: str, host: str, port: int) -> None:
    address = Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert str(address) == text


@pytest.mark.parametrize("text", ["", "host", ":80", "host:", "host:x", "host:70000", "host:-1", "::1:80", "host:²"])
def test_what_is_no_address_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UserError) as caught:
        Address.parse(text)
    assert "HOST:PORT" in caught.value.hint


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("127.0.0.1", Scope.LOOPBACK),
        ("127.9.9.9", Scope.LOOPBACK),
        ("::1", Scope.LOOPBACK),
        ("::ffff:127.0.0.1", Scope.LOOPBACK),
        ("localhost", Scope.LOOPBACK),
        ("10.1.2.3", Scope.PRIVATE),
        ("192.168.0.1", Scope.PRIVATE),
        ("169.254.1.1", Scope.PRIVATE),
        ("100.64.0.1", Scope.PRIVATE),
        ("fe80::1", Scope.PRIVATE),
        ("fd00::1", Scope.PRIVATE),
        ("8.8.8.8", Scope.GLOBAL),
        ("2606:4700::1", Scope.GLOBAL),
        ("node.example", Scope.GLOBAL),
    ],
)
def test_scopes(host: str, scope: Scope) -> None:
    assert Address(host, 1).scope is scope


def test_narrow_addresses_stay_where_they_mean_something() -> None:
    told = {record: {peer for peer in Scope if may_hear(record, peer)} for record in Scope}
    assert told == {
        Scope.LOOPBACK: {Scope.LOOPBACK},
        Scope.PRIVATE: {Scope.PRIVATE, Scope.LOOPBACK},
        Scope.GLOBAL: {Scope.LOOPBACK, Scope.PRIVATE, Scope.GLOBAL},
    }


@pytest.mark.parametrize("host", ["127.0.0.1", "8.8.8.8", "::1", "2606:4700::1"])
def test_packed_and_back(host: str) -> None:
    address = Address(host, 7337)
    assert len(address.pack()) == PACKED_BYTES
    assert Address.unpack(address.pack()) == address


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "224.0.0.1", "ff02::1"])
def test_what_cannot_be_dialed_does_not_unpack(host: str) -> None:
    with pytest.raises(Malformed):
        Address.unpack(Address(host, 7337).pack())


def test_names_are_not_packed() -> None:
    with pytest.raises(UserError):
        Address("node.example", 1).pack()


@given(some.binary(max_size=40))
def test_unpack_is_strict_and_canonical(data: bytes) -> None:
    try:
        address = Address.unpack(data)
    except Malformed:
        return
    assert address.pack() == data


@given(some.text(max_size=40))
def test_parse_raises_nothing_else(text: str) -> None:
    try:
        Address.parse(text)
    except UserError:
        pass


def test_what_is_remembered_of_hosts_is_bounded() -> None:
    for number in range(limits.HOSTS_REMEMBERED_MAX + 10):
        assert Address(f"20.{number >> 8}.{number & 255}.1", 1).scope is Scope.GLOBAL
    assert (
        addresses._scope.cache_info().currsize == addresses._number.cache_info().currsize == limits.HOSTS_REMEMBERED_MAX
    )
