"""Where the replicas are: names that the DNS has addresses for, or addresses."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

_TARGET = re.compile(
    r"(?P<host>\[[^]]+\]|[^:=\[\]]+):(?P<port>\d+)(?:=(?P<serves>(?:\[[^]]+\]|[^:=\[\]]+):\d+))?"
)


@dataclass(frozen=True)
class Target:
    """Metrics port of one or more replicas, which are all the addresses of `host`."""

    host: str
    port: int
    serves: str = ""
    """IP:PORT at which Envoy knows the replica, if that is not its address with the port of Envoy's
    listener."""

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read HOST:PORT or HOST:PORT=IP:PORT. Raises ValueError."""
        found = _TARGET.fullmatch(text)
        if found is None or not 0 < int(found["port"]) < 65536:
            raise ValueError(f"{text!r} is not HOST:PORT, nor HOST:PORT=IP:PORT")
        return cls(found["host"].strip("[]"), int(found["port"]), found["serves"] or "")


@dataclass(frozen=True)
class Address:
    """One replica."""

    ip: str
    port: int
    """Of its metrics."""
    serves: str = ""

    @property
    def name(self) -> str:
        return joined(self.ip, self.port)

    def served_at(self, port: int) -> str:
        """Give the address by which Envoy knows it. `port`: of Envoy's cluster."""
        return self.serves or joined(self.ip, port)


def joined(ip: str, port: int) -> str:
    """Write an address as Envoy does."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def resolve(targets: Iterable[Target]) -> dict[str, Address]:
    """Look all targets up: addresses by their name. Raises OSError where one has none."""
    found = {}
    for target in targets:
        answers = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        for *_, (ip, *_rest) in answers:
            address = Address(str(ip), target.port, target.serves)
            found[address.name] = address
    return found
