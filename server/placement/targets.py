"""Where the replicas are: names that the DNS has addresses for, or addresses."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import Literal

Protocol = Literal["grpc", "http"]
_TARGET = re.compile(
    r"(?P<host>\[[^]]+\]|[^:=\[\]]+):(?P<port>\d+)(?:=(?P<grpc>\d+),(?P<http>\d+))?"
)
_PORTS = range(1, 65536)


@dataclass(frozen=True)
class Target:
    """One or more replicas: all the addresses of `host`, with their ports."""

    host: str
    metrics: int
    grpc: int = 50051
    http: int = 8000

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read HOST:METRICS or HOST:METRICS=GRPC,HTTP. Raises ValueError."""
        found = _TARGET.fullmatch(text)
        if found is None:
            raise ValueError(
                f"{text!r} is not HOST:METRICS or HOST:METRICS=GRPC,HTTP, which needs both ports"
            )
        ports = [int(found[name] or getattr(cls, name, 0)) for name in ("port", "grpc", "http")]
        if wrong := [port for port in ports if port not in _PORTS]:
            raise ValueError(f"{text!r}: {wrong[0]} is no port")
        host = found["host"].strip("[]")
        try:
            host.encode("idna")  # as each look in the DNS will
        except UnicodeError:
            raise ValueError(f"{text!r}: {host!r} is no host's name") from None
        return cls(host, *ports)

    def __str__(self) -> str:
        return f"{joined(self.host, self.metrics)}={self.grpc},{self.http}"


@dataclass(frozen=True)
class Address:
    """One replica, with its ports."""

    ip: str
    metrics: int
    grpc: int = 50051
    http: int = 8000

    @property
    def name(self) -> str:
        return joined(self.ip, self.metrics)

    def served_at(self, protocol: Protocol) -> str:
        """Give the address by which Envoy knows it."""
        return joined(self.ip, self.grpc if protocol == "grpc" else self.http)


def joined(ip: str, port: int) -> str:
    """Write an address as Envoy does."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def resolve(target: Target) -> dict[str, Address]:
    """Look a target up: its addresses by their name. Raises OSError where it has none."""
    answers = socket.getaddrinfo(target.host, target.metrics, type=socket.SOCK_STREAM)
    addresses = (
        Address(str(ip), target.metrics, target.grpc, target.http) for *_, (ip, *_rest) in answers
    )
    return {address.name: address for address in addresses}
