"""A real Envoy, as the chart sets it up, before stand-ins for servers: where calls go, and what a caller can do."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from loramux.v1 import inference_pb2, inference_pb2_grpc

from .envoy import Routed, post, routed

ADAPTERS = [f"a{i}" for i in range(24)]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routed]:
    with routed(tmp_path_factory.mktemp("envoy"), settings={"max_message_bytes": 2 << 20}) as found:
        yield found


@pytest.fixture(scope="module")
def channel(here: Routed) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{here.ports['grpc']}") as found:
        yield found


def generate(channel: grpc.Channel, metadata: Any = (), **fields: Any) -> dict[str, Any]:
    request = inference_pb2.GenerateRequest(**fields)
    stub = inference_pb2_grpc.InferenceStub(channel)
    return dict(json.loads(stub.Generate(request, metadata=metadata, timeout=30).text))


def complete(here: Routed, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
    return post(here.ports["http"], json.dumps(body).encode(), **(headers or {}))


def test_an_adapter_has_one_server(here: Routed, channel: grpc.Channel) -> None:
    stub = inference_pb2_grpc.InferenceStub(channel)
    servers = {}
    for name in ADAPTERS:
        found = {
            generate(channel, adapter_id=name)["server"],
            complete(here, model=name)["server"],
            *(
                part.text
                for part in stub.GenerateStream(inference_pb2.GenerateRequest(adapter_id=name))
            ),
        }
        assert len(found) == 1, f"{name} went to {found}"
        servers[name] = found.pop()
    assert set(servers.values()) == {"s0", "s1", "s2"}
    weighted = [{"adapter_id": ADAPTERS[0], "weight": 0.5}, {"adapter_id": "other", "weight": 0.5}]
    assert generate(channel, adapters=weighted)["server"] == servers[ADAPTERS[0]]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_by_other_names(here: Routed, kind: str) -> None:
    headers = post(here.ports["http"], b'{"model": "a1"}', kind)["headers"]
    assert headers["x-loramux-adapter"] == "a1"


def test_calls_of_the_base_go_anywhere(here: Routed, channel: grpc.Channel) -> None:
    answers = [generate(channel) for _ in range(20)]
    answers += [complete(here, model="base") for _ in range(20)]
    answers += [complete(here, model="base", adapters=[{"adapter_id": "a1"}]) for _ in range(5)]
    answers += [complete(here), complete(here, model=5)]
    assert len({one["server"] for one in answers}) > 1
    assert not [one for one in answers if "x-loramux-adapter" in one["headers"]]


def test_a_callers_headers_choose_nothing(here: Routed, channel: grpc.Channel) -> None:
    other = here.servers[0]
    sent = {
        "x-loramux-adapter": "a1",
        "x-gateway-destination-endpoint": f"127.0.0.1:{other.grpc}",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-max-retries": "9",
        "x-request-id": "mine",
    }
    told = [
        generate(channel, list(sent.items()), adapter_id="a7", max_new_tokens=3),
        complete(here, sent, model="a7"),
    ]
    for one in told:
        ours = {key: value for key, value in one["headers"].items() if key in sent}
        assert ours == {"x-loramux-adapter": "a7", "x-request-id": "mine"}
    assert len({one["server"] for one in told}) == 1
    assert "x-loramux-adapter" not in generate(channel, list(sent.items()))["headers"]


@pytest.mark.parametrize("name", ["a\r\nx-evil: 1", "a\0", "a" * 2000])
def test_a_name_that_no_header_can_have(here: Routed, channel: grpc.Channel, name: str) -> None:
    for answer in (generate(channel, adapter_id=name), complete(here, model=name)):
        assert not {"x-loramux-adapter", "x-evil"} & answer["headers"].keys()


def test_what_a_server_would_take_is_not_refused(here: Routed, channel: grpc.Channel) -> None:
    text = "x" * ((2 << 20) - 1000)
    assert generate(channel, adapter_id="a1", prompt=text)["bytes"] == len(text)
    assert complete(here, model="a1", prompt=text)["bytes"] > len(text)
    assert post(here.ports["http"], b"{" * 1000)["bytes"] == 1000  # for the server to refuse
    with pytest.raises(urllib.error.HTTPError) as refused:
        complete(here, model="a1", prompt=text + text)
    assert refused.value.code == 413
    assert json.loads(refused.value.read())["error"]["message"] == "Payload Too Large"


def test_health_and_reflection_pass(here: Routed, channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    assert stub.Check(health_pb2.HealthCheckRequest()).status == 1
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == 1
    watch.cancel()
    assert json.loads(here.page("/health", "http"))["server"]


def test_events_arrive_while_the_answer_goes_on(here: Routed) -> None:
    url = f"http://127.0.0.1:{here.ports['http']}/v1/completions"
    body = json.dumps({"model": "a1", "stream": True, "max_tokens": 20}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        first = answer.readline()
        seen = sum(int(one) for one in here_open_streams(here))
        rest = answer.read()
    assert first.startswith(b"data: s")
    assert seen == 1, "the answer was whole when its first event came"
    assert rest.count(b"data: ") == 19


def here_open_streams(here: Routed) -> list[str]:
    """Calls that run now, over HTTP, of each cluster of adapters."""
    page = here.page("/metrics")
    found = [
        line for line in page.splitlines() if line.startswith("envoy_cluster_upstream_rq_active")
    ]
    return [line.rpartition(" ")[2] for line in found if '"adapters_http"' in line]


def test_envoys_own_pages_stay_closed(here: Routed) -> None:
    assert here.page("/ready").strip() == "LIVE"
    assert "envoy_cluster_upstream_rq_total" in here.page("/metrics")
    for path in ("/stats", "/config_dump", "/quitquitquit"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            here.page(path)
    order = urllib.request.Request(f"http://127.0.0.1:{here.ports['metrics']}/ready", method="POST")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(order)
