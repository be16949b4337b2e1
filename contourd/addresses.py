"""Which networks an address lies in."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network


def lies_in(address: str, networks: Sequence[Network]) -> bool:
    """Say whether an address lies in one of the networks; an IPv4 address that came by IPv6 counts as IPv4.

    Raises
    ------
    ValueError
        It is no address.
    """
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in networks)
