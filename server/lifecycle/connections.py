"""Connections of a port, as the kernel has them: gRPC tells neither who is connected nor closes one.

Where there is no /proc (not Linux) nothing is found, and nothing is closed.
"""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import os
import socket
import stat
import struct
import termios
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import unquote

_SO_ATTACH_FILTER = 26
_NO_SYN = (
    (0x30, 0, 0, 13),
    (0x54, 0, 0, 0x12),
    (0x15, 0, 1, 0x02),
    (0x06, 0, 0, 0),
    (0x06, 0, 0, 2**32 - 1),
)
"""Filter (BPF) of a port's segments: byte 13 of the TCP header, its bits of SYN and ACK, SYN alone is
dropped, all others pass."""
Address = tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]
_FILES = "/proc/self/fd"
_LAST_DATA_RECEIVED = 8 + 11 * 4
"""Offset of tcpi_last_data_recv in struct tcp_info, which tcp(7) names: 8 bytes, then 32-bit words."""


def stop_listening(port: int) -> None:
    """Refuse connections from now on; those that stand are left alone, and the port is free."""
    with _sockets(port) as sockets:
        for one in sockets:
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                one.shutdown(socket.SHUT_RD)


def turn_away(port: int) -> None:
    """Let no connection begin from now on; those that are on their way still come.

    For a port that is about to be closed: who is in its queue then, or in the middle of the
    handshake, is taken for connected by itself, and loses what it sends. Nobody is refused yet: who
    knocks does so again a second later.
    """
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in _NO_SYN))
    program = struct.pack("@HP", len(_NO_SYN), ctypes.addressof(code))
    with _sockets(port) as sockets:
        for one in sockets:
            with suppress(OSError):  # a system without: the queue is short, and so is the moment
                if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def unread_bytes(number: int) -> int:
    """Give how much of a connection's data has come and has not been read, by its descriptor."""
    return int(struct.unpack("=i", fcntl.ioctl(number, termios.FIONREAD, b"\0" * 4))[0])


@contextmanager
def connections(port: int) -> Iterator[dict[Address, socket.socket]]:
    """Give the connections that clients have to `port`, by the client's address.

    The sockets are gRPC's own under a second descriptor, which is closed at the block's end.
    """
    with _sockets(port) as sockets:
        found = {}
        for one in sockets:
            with suppress(OSError):  # not connected
                host, its_port, *_ = one.getpeername()
                found[_address(host, its_port)] = one
        yield found


def close(connection: socket.socket) -> None:
    """End a connection: whoever has a call on it or sends one gets UNAVAILABLE."""
    with suppress(OSError):  # the client was first
        connection.shutdown(socket.SHUT_RDWR)


def silent_s(connection: socket.socket) -> float:
    """Give the seconds since the client last sent anything."""
    size = _LAST_DATA_RECEIVED + 4
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    return struct.unpack_from("=I", info, _LAST_DATA_RECEIVED)[0] / 1000


def address_of(peer: str) -> Address | None:
    """Read a client's address in gRPC's notation: ipv4:10.0.0.1:4000, ipv6:%5B::1%5D:4000."""
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    try:
        return _address(host.strip("[]"), int(port))
    except ValueError:
        return None


def _address(host: str, port: int) -> Address:
    ip = ipaddress.ip_address(host)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip, port


@contextmanager
def _sockets(port: int) -> Iterator[list[socket.socket]]:
    """Give this process's TCP sockets whose own port is `port`, each under a second descriptor."""
    with ExitStack() as stack:
        found = []
        for number in os.listdir(_FILES) if os.path.isdir(_FILES) else ():
            with suppress(OSError):  # closed since
                if stat.S_ISSOCK(os.stat(int(number)).st_mode):
                    one = stack.enter_context(socket.socket(fileno=os.dup(int(number))))
                    # A number that is closed and taken again in between names another socket.
                    if _own_port(one) == port:
                        found.append(one)
        yield found


def _own_port(one: socket.socket) -> int | None:
    if one.family not in (socket.AF_INET, socket.AF_INET6) or one.type != socket.SOCK_STREAM:
        return None
    return int(one.getsockname()[1])
