"""Under which addresses a labelling page is reached, and which of them colleagues can open."""

from __future__ import annotations

import ipaddress
import json
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from alignloop.foreign import loads
from alignloop.io import write_whole
from alignloop.web.server import EVERY_ADDRESS, LOCAL_HOSTS, url_of

ADDRESSES = "addresses.json"
"""File of a label folder with the addresses at which it was served last."""
_SIOCGIFADDR = 0x8915
_INNER = ("lo", "docker", "br-", "veth", "virbr", "cni", "flannel")
"""Beginnings of the names of network interfaces that lead to this machine only."""


def machine_addresses() -> list[str]:
    """IPv4 addresses of this machine in its networks, without those that only the machine itself reaches.

    Nothing is sent: the interfaces are asked where the system allows it, else the name of the machine.
    """
    found = []
    try:
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            for _, name in socket.if_nameindex():
                if name.startswith(_INNER):
                    continue
                try:
                    answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                except OSError:
                    continue  # an interface without an IPv4 address
                found.append(socket.inet_ntoa(answer[20:24]))
    except (ImportError, OSError, AttributeError):
        pass
    if not found:
        try:
            found = [str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)]
        except OSError:
            found = []
    return [address for address in dict.fromkeys(found) if _leads_here(address)]


def _leads_here(address: str) -> bool:
    try:
        parsed = ipaddress.IPv4Address(address)
    except ValueError:
        return False
    return not (parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified)


def addresses_of(host: str, port: int, names: Sequence[str] = ()) -> list[str]:
    """Addresses of a page served at `host`, this machine's own first, those that others can open after it.

    Args:
        host: what the server listens on.
        port: the port in use.
        names: further names under which the page is reached, which the owner gave.

    Returns:
        `http://HOST:PORT` each.
    """
    if host not in EVERY_ADDRESS:
        hosts = [host, *names]
    elif names:  # only these names are answered, see web.server.answered_hosts
        hosts = ["127.0.0.1", *names]
    else:
        hosts = ["127.0.0.1", *machine_addresses()]
    return [url_of(name, port) for name in dict.fromkeys(hosts)]


def is_local(address: str) -> bool:
    """Whether an address (`http://HOST:PORT`) is this machine's own, which nobody else can open."""
    return address.split("//")[-1].rsplit(":", 1)[0].strip("[]") in LOCAL_HOSTS


def shared_address(addresses: Sequence[str]) -> str | None:
    """The first address that others can open; None if there is none."""
    return next((address for address in addresses if not is_local(address)), None)


def remember(folder: Path, addresses: Sequence[str]) -> None:
    """Write down where a folder is served, for invitations made by other commands."""
    write_whole(folder / ADDRESSES, json.dumps(list(addresses)) + "\n")


def recall(folder: Path) -> list[str]:
    """Where a folder is served, or was last; empty if it never was."""
    try:
        found = loads((folder / ADDRESSES).read_text("utf-8"))
    except (OSError, ValueError):
        return []
    whole = isinstance(found, list) and all(isinstance(address, str) for address in found)
    return found if whole else []
