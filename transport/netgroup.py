"""The netgroup of an address: the part of a network that one operator holds many addresses in. And its IP group: what one subscriber has.

An attacker with a thousand addresses has them in a few groups, so whatever is limited or counted by group costs them money.
IPv4 counts by /16 and IPv6 by /32, the smallest blocks that registries hand out; all private addresses are one group, and
loopback is another, since neither says anything about who is there.

Not here: the limits by group (buckets.py for the address book, dialing.py for links, admission.py for who comes to us). Rule for
editing: the groups enter the keyed hashes of saved address books, so a change makes every node sort its book anew (harmless, but not
free).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from transport.address import Address, Scope

IPV4_PREFIX_BYTES: Final = 2
IPV6_PREFIX_BYTES: Final = 4
IPV6_SUBSCRIBER_BYTES: Final = 8  # a /64: the least that a provider gives to one line, and its holder can use all of it


@lru_cache(maxsize=4096)  # to parse an address takes ten microseconds, and the dial plan asks for hundreds
def netgroup(address: Address) -> bytes:
    """A short name of the group; equal for two addresses exactly if they count as one operator's."""
    match address.scope:
        case Scope.LOOPBACK:
            return b"loopback"
        case Scope.PRIVATE:
            return b"private"
        case Scope.GLOBAL:
            ip = address.ip
            if ip is None:  # a name, which only the operator of this node can have given
                return b"name:" + address.host.encode()
            return b"%d:" % ip.version + ip.packed[: IPV4_PREFIX_BYTES if ip.version == 4 else IPV6_PREFIX_BYTES]


@lru_cache(maxsize=4096)  # to parse an address takes ten microseconds, and the dial plan asks for hundreds
def internet_group(address: Address) -> bytes | None:
    """The netgroup, where it is to be limited: of globally routable addresses only."""
    return netgroup(address) if address.scope is Scope.GLOBAL else None


@lru_cache(maxsize=4096)
def ip_group(address: Address) -> bytes | None:
    """The IPv4 address or the IPv6 /64, where it is to be limited: of globally routable addresses only."""
    ip = address.ip
    if address.scope is not Scope.GLOBAL or ip is None:
        return None
    return ip.packed if ip.version == 4 else ip.packed[:IPV6_SUBSCRIBER_BYTES]
