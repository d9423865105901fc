"""A real Envoy whose picker is not there, or says nothing: calls go by the hash."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from loramux.v1 import inference_pb2, inference_pb2_grpc

from . import envoy
from .envoy import free_ports, post, routed


@pytest.fixture
def picker_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A port for the picker, in the place of the one that it has in a pod."""
    (port,) = free_ports(1)
    files: Callable[[dict[str, object]], dict[str, str]] = envoy.envoy_render.files

    def moved(values: dict[str, object]) -> dict[str, str]:
        text = files(values)
        assert "port_value: 9002" in text["envoy.yaml"]
        return text | {"envoy.yaml": text["envoy.yaml"].replace("9002", str(port))}

    monkeypatch.setattr(envoy.envoy_render, "files", moved)
    return port


@pytest.mark.parametrize("silent", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_without_a_picker_the_hash_decides(tmp_path: Path, picker_port: int, silent: bool) -> None:
    with closing(socket.socket()) as held:
        if silent:
            held.bind(("127.0.0.1", picker_port))
            held.listen()
        with routed(tmp_path, picker={"enabled": True}) as here:
            target = f"127.0.0.1:{here.ports['grpc']}"
            with grpc.insecure_channel(target) as channel:
                stub = inference_pb2_grpc.InferenceStub(channel)
                request = inference_pb2.GenerateRequest(adapter_id="a1")
                texts = [stub.Generate(request, timeout=30).text for _ in range(4)]
                texts += [part.text for part in stub.GenerateStream(request, timeout=30)]
            body = json.dumps({"model": "a1"}).encode()
            over_http = [post(here.ports["http"], body)["server"] for _ in range(2)]
    servers = {json.loads(text)["server"] if "{" in text else text for text in texts}
    assert servers == set(over_http)
    assert len(servers) == 1
