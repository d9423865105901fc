"""Stops, kills and restarts one of two servers behind one name, in turn, while clients call.

    python deploy/test/two_servers.py --out two-servers.json
    python deploy/test/two_servers.py --rounds 2 --signal kill --method Generate
    python deploy/test/two_servers.py --signal term --method http http-stream --client httpx openai

No cluster: both run here, at 127.0.0.11 and 127.0.0.12, under one name; the base is small and random.
gRPC: ghz (0.121 or newer, on the PATH) holds one channel with round_robin and 16 calls at once; a
small DNS server of this script answers it. HTTP: http_load.py holds 16 connections or more.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import models
import run

ADDRESSES = ("127.0.0.11", "127.0.0.12")
ROOT = Path(__file__).parents[2]


class Kind(NamedTuple):
    """Kind of call; of HTTP where there is no `method`. `flags` are those of ghz or http_load.py."""

    name: str
    method: str
    tokens: int
    flags: tuple[str, ...] = ("-c", "16")


CALLS = {
    "Generate": Kind("unary", "Generate", 4),
    "GenerateStream": Kind("60-token streams", "GenerateStream", 60),
    "http": Kind("unary", "", 4),
    "http-stream": Kind("60-token streams", "", 60, ("-c", "16", "--stream")),
    # Connections are idle for as long as a server that stops waits for them, more and less.
    "http-pauses": Kind("unary with pauses", "", 4, ("-c", "64", "--pause", "3")),
}
LONG = Kind("", "GenerateStream", 1500, ("-c", "4", "-n", "4"))
LONG_HTTP = Kind("", "", LONG.tokens, (*LONG.flags, "--stream"))
ROUND_S = 18


def main() -> None:
    args = arguments()
    threading.Thread(target=answer_names, args=(args.dns_port,), daemon=True).start()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        models.save_base(Path(folder, "base"))
        models.save_adapter(Path(folder, "adapter"))
        pair = Pair(Path(folder), args)
        try:
            for name in args.signal:
                for kind, client in kinds(args):
                    for long in (False, True) if name == "term" and not args.alone else (False,):
                        for row in measure(pair, args, name, kind, client, long):
                            rows.append(row)
                            print(json.dumps(row), flush=True)
        finally:
            pair.end()
    if args.out:
        run.write(args.out, args.label, rows, {"processor": processor()})


def kinds(args: argparse.Namespace) -> list[tuple[Kind, str]]:
    """Kinds of calls, those of HTTP with each client."""
    chosen = [CALLS[method] for method in args.method]
    return [(k, client) for k in chosen for client in (["ghz"] if k.method else args.client)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=10, help="restarts of each kind")
    parser.add_argument("--signal", nargs="+", choices=["term", "kill"], default=["term", "kill"])
    parser.add_argument("--method", nargs="+", choices=list(CALLS), default=list(CALLS))
    parser.add_argument(
        "--client",
        nargs="+",
        choices=["httpx", "aiohttp", "openai"],
        default=["httpx"],
        help="HTTP",
    )
    parser.add_argument("--alone", action="store_true", help="without long streams beside")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose server is tried")
    parser.add_argument("--args", default="", help="more arguments of loramux serve")
    parser.add_argument("--port", type=int, default=50777)
    parser.add_argument("--http-port", type=int, default=50779)
    parser.add_argument("--dns-port", type=int, default=50778)
    parser.add_argument("--out", type=Path, help="JSON file; other labels in it are kept")
    parser.add_argument("--label", default="after", help="under which the results are kept")
    return parser.parse_args()


class Pair:
    """The two servers."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self._folder, self._args = folder, args
        self._servers = {address: self._start(address) for address in ADDRESSES}
        for address in ADDRESSES:
            self._wait(address)

    def restart(self, address: str, number: signal.Signals) -> float:
        """End one and start it again; gives the seconds that the end took."""
        begun = time.monotonic()
        self._servers[address].send_signal(number)
        self._servers[address].wait()
        seconds = time.monotonic() - begun
        self._servers[address] = self._start(address)
        self._wait(address)
        return seconds

    def end(self) -> None:
        for server in self._servers.values():
            server.terminate()
        for server in self._servers.values():
            server.wait()

    def _start(self, address: str) -> subprocess.Popen[bytes]:
        flags = ["--base", f"{self._folder}/base", "--adapter", f"a={self._folder}/adapter"]
        flags += ["--host", address, "--port", str(self._args.port), "--metrics-port", "0"]
        flags += ["--http-port", str(self._args.http_port)]
        flags += ["--dtype", "float32", "--threads", "1", "--kv-cache-bytes", str(256 << 20)]
        command = [sys.executable, "-m", "server", "serve", *flags, *self._args.args.split()]
        with Path(self._folder, f"{address}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self._args.checkout, stderr=log)

    def _wait(self, address: str) -> None:
        for port in (self._args.port, self._args.http_port):
            while not is_open(address, port):
                if self._servers[address].poll() is not None:
                    log = Path(self._folder, f"{address}.log").read_text()
                    raise SystemExit(f"a server does not start: {log[-1000:]}")
                time.sleep(0.1)


def is_open(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True


def measure(
    pair: Pair, args: argparse.Namespace, name: str, kind: Kind, client: str, long: bool
) -> list[dict[str, Any]]:
    """Restart `args.rounds` times under load; calls by status."""
    short, streams, seconds = Counter[str](), Counter[str](), []
    number = signal.SIGTERM if name == "term" else signal.SIGKILL
    load, long_kind = (ghz, LONG) if kind.method else (http, LONG_HTTP)
    for turn in range(args.rounds):
        busy = load(args, client, kind, "-z", f"{ROUND_S}s")
        time.sleep(2)
        beside = [load(args, client, long_kind) for _ in range(long)]
        time.sleep(1)
        seconds.append(pair.restart(ADDRESSES[turn % 2], number))
        short += statuses(busy)
        for one in beside:
            streams += statuses(one)
    by = "" if kind.method else f"HTTP with {client}, "
    beside_long = " beside four long streams" if long else ""
    measured = f"{by}SIG{name.upper()}, {kind.name}{beside_long}"
    stops = [round(s, 1) for s in seconds]
    rows = [row(measured, short, restarts=args.rounds, stops_s=stops)]
    return [*rows, row(f"{measured}: the long ones", streams)] if long else rows


def ghz(args: argparse.Namespace, client: str, kind: Kind, *flags: str) -> subprocess.Popen[str]:
    data = {"adapter_id": "a", "prompt": "hi", "max_new_tokens": kind.tokens, "ignore_eos": True}
    protos = args.checkout / "protos"
    what = ["--insecure", "--proto", f"{protos}/loramux/v1/inference.proto", "-i", str(protos)]
    what += ["--call", f"loramux.v1.Inference/{kind.method}", "--data", json.dumps(data)]
    how = ["--lb-strategy", "round_robin", "--duration-stop", "wait", "-t", "120s", "-O", "json"]
    where = f"dns://127.0.0.1:{args.dns_port}/loramux.test:{args.port}"
    return started([client, *what, *how, *kind.flags, *flags, where])


def http(args: argparse.Namespace, client: str, kind: Kind, *flags: str) -> subprocess.Popen[str]:
    script = str(Path(__file__).with_name("http_load.py"))
    where = [flag for address in ADDRESSES for flag in ("--address", address)]
    what = ["--client", client, "--port", str(args.http_port), "--tokens", str(kind.tokens)]
    return started([sys.executable, script, *where, *what, *kind.flags, *flags])


def started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def statuses(load: subprocess.Popen[str]) -> Counter[str]:
    return Counter(json.loads(load.communicate()[0])["statusCodeDistribution"])


def row(measured: str, statuses: Counter[str], **notes: Any) -> dict[str, Any]:
    calls = statuses.total()
    counts = {"calls": calls, "failed": calls - statuses["OK"], "by_status": dict(statuses)}
    return {"measure": measured, **counts, "notes": notes}


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")


def answer_names(port: int) -> None:
    """Answer every name with both addresses (RFC 1035), for a second."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", port))
        while True:
            query, client = server.recvfrom(512)
            end = query.index(b"\0", 12) + 5
            is_a = query[end - 4 : end - 2] == b"\0\1"
            records = [
                b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(a) for a in ADDRESSES if is_a
            ]
            head = query[:2] + b"\x81\x80" + struct.pack(">4H", 1, len(records), 0, 0)
            server.sendto(head + query[12:end] + b"".join(records), client)


if __name__ == "__main__":
    main()
