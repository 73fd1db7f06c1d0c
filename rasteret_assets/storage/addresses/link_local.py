"""Recognise hosts that are asked only if a spec allows it: link-local ones, and services that hand out credentials."""

from __future__ import annotations

import ipaddress
import re
import socket
from functools import lru_cache
from typing import Final
from urllib.parse import unquote


class LinkLocalNameError(OSError):
    """A name all of whose addresses are link-local, so that no connection was made."""


_NETWORKS: Final = tuple(
    map(
        ipaddress.ip_network,
        # Link-local networks, and metadata services outside of them: AWS over IPv6, Alibaba, Oracle.
        ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "100.100.100.200/32", "192.0.0.192/32"),
    )
)
_NAMES: Final = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_PORT: Final = re.compile(r":\d*$")


@lru_cache(maxsize=4096)
def is_link_local(name: str) -> bool:
    """Return whether a host, with or without its port, is link-local or a service that hands out credentials.

    Addresses are known in all spellings that a resolver takes (``0xa9fea9fe``, ``169.254.43518``), and IPv4 within
    IPv6.
    """
    name = unquote(name).lower()
    bare = name.partition("]")[0].lstrip("[") if name.startswith("[") else _PORT.sub("", name)
    bare = bare.partition("%")[0].rstrip(".")
    return bare in _NAMES or is_link_local_address(bare)


def is_link_local_address(text: str) -> bool:
    """Return whether an address without a port, IPv6 without brackets, is link-local; False for a name."""
    address = _address(text.partition("%")[0])
    return address is not None and any(address in network for network in _NETWORKS)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(name))
        except (OSError, ValueError):
            return None
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address
