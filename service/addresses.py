"""Addresses that are nobody's on the internet: special ones, those of clouds' own services, and this machine's network.

The table is written out, so that it does not change with the version of Python, which knows some of it only.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator

import psutil

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SPECIAL = {
    # https://www.iana.org/assignments/iana-ipv4-special-registry, and multicast
    "0.0.0.0/8": "this network",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "shared by a carrier; 100.100.100.200 is Alibaba's metadata",
    "127.0.0.0/8": "this machine",
    "169.254.0.0/16": "link-local; 169.254.169.254 is most clouds' metadata",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "IETF protocols; 192.0.0.192 is Oracle's metadata",
    "192.0.2.0/24": "documentation",
    "192.31.196.0/24": "AS112",
    "192.52.193.0/24": "AMT relays",
    "192.88.99.0/24": "6to4 relays",
    "192.168.0.0/16": "private",
    "192.175.48.0/24": "AS112",
    "198.18.0.0/15": "benchmarks",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved, and broadcast",
    # https://www.iana.org/assignments/iana-ipv6-special-registry, and what was never given to anybody
    "::/3": "no address of a host; loopback, private NAT64 and the discard prefix are in it",
    "2001::/23": "IETF protocols: Teredo, benchmarks, ORCHID",
    "2001:db8::/32": "documentation",
    "2002::/16": "6to4",
    "2620:4f:8000::/48": "AS112",
    "3fff::/20": "documentation",
    "4000::/2": "not given to anybody; segment routing is in it",
    "8000::/1": "not given to anybody; private, link-local and multicast are in it, fd00:ec2::254 is Amazon's metadata",
    # A public address that is each virtual machine's own host at Azure
    "168.63.129.16/32": "Azure's own services",
}
"""Networks that no user's URL may lead to, each with its use."""
_SPECIAL = tuple((ipaddress.ip_network(text), use) for text, use in SPECIAL.items())
_WITH_IPV4 = tuple(ipaddress.IPv6Network(text) for text in ("::ffff:0:0/96", "64:ff9b::/96"))
"""IPv6 addresses that lead to the IPv4 address in their last four bytes: mapped ones, and those of a NAT64 gateway."""
_LEAST_PREFIX = {4: 16, 6: 48}
"""A network of an interface that is larger is no network of this machine alone: a tunnel may claim all there is."""


def why_not_public(text: str) -> str | None:
    """Return what an address is, where it is none of the internet beyond this machine and its network; else None.

    The interfaces are asked each time: addresses come and go.

    Args:
        text: The address, as the resolver gives it.
    """
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and any(address in network for network in _WITH_IPV4):
        address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    for network, use in _SPECIAL:
        if address in network:
            return use
    return next(("this machine's own network" for network in own_networks() if address in network), None)


def own_networks() -> Iterator[Network]:
    """Yield the networks that this machine's interfaces are in; of a very large one, its own address alone."""
    for addresses in psutil.net_if_addrs().values():
        for found in addresses:
            if found.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            own = ipaddress.ip_interface(found.address.partition("%")[0])
            yield ipaddress.ip_network(own.ip)
            if (length := _prefix_length(found.netmask)) is not None and length >= _LEAST_PREFIX[own.version]:
                yield ipaddress.ip_network((own.ip, length), strict=False)


def _prefix_length(netmask: str | None) -> int | None:
    return None if netmask is None else int(ipaddress.ip_address(netmask)).bit_count()
