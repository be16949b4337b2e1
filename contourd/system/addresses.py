"""Which networks an address lies in, and whose it is."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network
# One network of IPv6 belongs to one party (RFC 4291, 2.5.4).
OF_ONE_PARTY = 64


def lies_in(address: str, networks: Sequence[Network]) -> bool:
    """Return whether an address lies in one of the networks; an IPv4 address that came by IPv6 counts as IPv4.

    Raises
    ------
    ValueError
        It is no address.
    """
    found = _address(address)
    return any(found in network for network in networks)


def address_group(address: str) -> str:
    """Return whom an address belongs to: itself, of IPv6 its network; what is no address stands for itself."""
    try:
        found = _address(address)
    except ValueError:
        return address
    return str(IPv6Network((found, OF_ONE_PARTY), strict=False) if isinstance(found, IPv6Address) else found)


def _address(address: str) -> IPv4Address | IPv6Address:
    found = ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return found if mapped is None else mapped
