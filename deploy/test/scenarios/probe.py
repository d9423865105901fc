"""Asks each address for one token and prints how it answered, and whose certificate it showed, as JSON.
Runs in the client's pod, with what to ask as its argument."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import grpc
from loramux.v1.inference_pb2 import GenerateRequest
from loramux.v1.inference_pb2_grpc import InferenceStub

AUTHORITY = Path("/tmp/ca.pem")


def main() -> None:
    asked = json.loads(sys.argv[1])
    print(json.dumps({target: answer(target, asked) for target in asked["targets"]}))


def answer(target: str, asked: dict[str, Any]) -> dict[str, str]:
    options = [("grpc.ssl_target_name_override", asked["name"])]
    trusted = grpc.ssl_channel_credentials(AUTHORITY.read_bytes())
    request = GenerateRequest(adapter_id=asked["adapter"], prompt="hello", max_new_tokens=1)
    metadata = [("authorization", f"Bearer {asked['token']}")]
    try:
        with grpc.secure_channel(target, trusted, options) as channel:
            InferenceStub(channel).Generate(request, timeout=20, metadata=metadata)
        status = "OK"
    except grpc.RpcError as error:
        status = error.code().name
    return {"status": status, "certificate": certificate(target, asked["name"])}


def certificate(target: str, name: str) -> str:
    """The digest of what the server shows; nothing if it shows none."""
    host, _, port = target.partition(":")
    context = ssl.create_default_context(cafile=AUTHORITY)
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=name) as secure,
        ):
            return hashlib.sha256(secure.getpeercert(binary_form=True) or b"").hexdigest()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
