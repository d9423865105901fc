"""Server reflection, asked as its protocol says: every kind of request, in both versions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_database import DescriptorDatabase
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha import reflection_pb2_grpc

from server.grpc import reflection

from ...support.reflection import ask, error, extension, files, info, names, request, zoo
from ...support.servers import Harness, make_settings, refused, running
from ...support.tokens import bearer, write_tokens

VERSIONS = [reflection.V1, reflection.V1ALPHA]
INFERENCE = "loramux/v1/inference.proto"
SERVICES = {
    "loramux.v1.Inference",
    "loramux.v1.Adapters",
    "loramux.v1.Server",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}
NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT.value[0]


SYMBOLS = {
    "service": "zoo.Keeper",
    "method": "zoo.Keeper.Feed",
    "message": "zoo.Outer",
    "nested message": "zoo.Outer.Inner",
    "field": "zoo.Outer.field",
    "oneof": "zoo.Outer.choice",
    "enum": "zoo.Kind",
    "enum value": "zoo.VALUE",
    "nested enum": "zoo.Outer.Inner.Kind",
    "nested enum value": "zoo.Outer.Inner.INNER_VALUE",
    "nested extension": "zoo.Outer.Inner.nested",
}
NO_SYMBOLS = {
    "empty": "",
    "dot": ".",
    "leading dot": ".zoo.Outer",
    "package": "zoo",
    "unknown": "zoo.Nope",
    "unknown method": "zoo.Keeper.Nope",
    "method of a message": "zoo.Outer.Feed",
    "path of a call": "zoo.Keeper/Feed",
    "file": "top.proto",
    "zero byte": "zoo.Outer\0",
    "not ASCII": "zoo.Öuter",
    "long": "zoo." + "x" * 1_000_000,
    "dots": "." * 1_000_000,
}


@pytest_asyncio.fixture(params=VERSIONS)
async def zoo_keeper(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Asks, in each version, a server of nothing but the zoo."""
    server = grpc.aio.server()
    reflection.add_to(server, ["zoo.Keeper"], zoo())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:

        async def asking(*requests: Any) -> list[pb.ServerReflectionResponse]:
            return await ask(channel, *requests, version=request.param)

        yield asking
    await server.stop(grace=0)


@pytest.mark.parametrize("symbol", SYMBOLS.values(), ids=SYMBOLS)
async def test_the_file_of_a_symbol_with_all_that_it_needs(zoo_keeper: Any, symbol: str) -> None:
    (answer,) = await zoo_keeper(request(file_containing_symbol=symbol))
    first, *others = names(answer)
    assert first == "top.proto"
    assert sorted(others) == ["bottom.proto", "left.proto", "right.proto"]


@pytest.mark.parametrize("symbol", NO_SYMBOLS.values(), ids=NO_SYMBOLS)
async def test_what_is_no_symbol(zoo_keeper: Any, symbol: str) -> None:
    asked = request(file_containing_symbol=symbol)
    (answer,) = await zoo_keeper(asked)
    assert error(answer) == NOT_FOUND
    assert answer.original_request == asked
    assert len(answer.error_response.error_message) < 1000


async def test_a_file_by_its_name(zoo_keeper: Any) -> None:
    found, unknown, empty, long = await zoo_keeper(
        *(request(file_by_filename=name) for name in ("left.proto", "nope", "", "x" * 1_000_000))
    )
    assert names(found) == ["left.proto", "bottom.proto"]
    assert [error(answer) for answer in (unknown, empty, long)] == [NOT_FOUND] * 3


async def test_the_file_of_an_extension(zoo_keeper: Any) -> None:
    answers = await zoo_keeper(*(extension("zoo.Base", number) for number in (101, 102, 103)))
    assert [names(answer)[0] for answer in answers] == ["left.proto", "top.proto", "right.proto"]
    missing = [("zoo.Base", n) for n in (0, -1, 150, 1 << 29, (1 << 31) - 1, -(1 << 31))]
    missing += [("zoo.Outer", 101), ("zoo.Nope", 101), ("zoo.Keeper", 101), ("", 0)]
    answers = await zoo_keeper(*(extension(*pair) for pair in missing))
    assert [error(answer) for answer in answers] == [NOT_FOUND] * len(missing)


async def test_the_numbers_of_a_type_s_extensions(zoo_keeper: Any) -> None:
    asked = ("zoo.Base", "zoo.Outer", "zoo.Nope", "zoo.Kind", "", "x" * 1_000_000)
    answers = await zoo_keeper(*(request(all_extension_numbers_of_type=name) for name in asked))
    found = [answer.all_extension_numbers_response for answer in answers[:2]]
    assert [(f.base_type_name, list(f.extension_number)) for f in found] == [
        ("zoo.Base", [101, 102, 103]),
        ("zoo.Outer", []),
    ]
    assert [error(answer) for answer in answers[2:]] == [NOT_FOUND] * 4


async def test_answers_go_on_after_errors(zoo_keeper: Any) -> None:
    bad_utf8 = b"\x22\x02\xc3\x28"
    cut_short = b"\x22\x7fzoo"
    answers = await zoo_keeper(
        request(), b"", request(host="h"), bad_utf8, cut_short, b"\xff" * 20, b"\x12\x01x"
    )
    assert [error(answer) for answer in answers] == [INVALID_ARGUMENT] * 7
    *errors, last = await zoo_keeper(
        bad_utf8, request(file_containing_symbol="zoo.Nope"), request(list_services="")
    )
    assert [error(answer) for answer in errors] == [INVALID_ARGUMENT, NOT_FOUND]
    listed = {service.name for service in last.list_services_response.service}
    assert listed == {"zoo.Keeper", *VERSIONS}


async def test_the_request_and_its_host_come_back(zoo_keeper: Any) -> None:
    kinds = [
        {"list_services": "*"},
        {"file_by_filename": "top.proto"},
        {"file_containing_symbol": "zoo.Nope"},
        {"all_extension_numbers_of_type": "zoo.Base"},
        {},
    ]
    asked = [request(host=f"host-{i}", **fields) for i, fields in enumerate(kinds)]
    answers = await zoo_keeper(*asked)
    assert [answer.original_request for answer in answers] == asked
    assert [answer.valid_host for answer in answers] == [one.host for one in asked]


async def test_each_answer_comes_before_the_next_request(zoo_keeper: Any, served: Harness) -> None:
    for version in VERSIONS:
        stream = info(served.channel, version)()
        for symbol in ("loramux.v1.Inference.Generate", "nope", "loramux.v1.Server"):
            await stream.write(request(file_containing_symbol=symbol))
            answer = await stream.read()
            assert answer.original_request.file_containing_symbol == symbol
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_server_tells_of_all_its_services_and_methods(
    served: Harness, version: str
) -> None:
    (listed,) = await ask(served.channel, request(list_services=""), version=version)
    services = {service.name for service in listed.list_services_response.service}
    assert services == SERVICES
    for service in services:
        (answer,) = await ask(
            served.channel, request(file_containing_symbol=service), version=version
        )
        file = files(answer)[0]
        (described,) = [s for s in file.service if f"{file.package}.{s.name}" == service]
        assert described.method
        symbols = [f"{service}.{method.name}" for method in described.method]
        answers = await ask(
            served.channel,
            *(request(file_containing_symbol=symbol) for symbol in symbols),
            version=version,
        )
        assert {names(answer)[0] for answer in answers} == {file.name}


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client_that_knows_nothing_can_call(served: Harness, version: str) -> None:
    """A pool made of what the server sends alone, and a call with it."""
    (answer,) = await ask(
        served.channel,
        request(file_containing_symbol="loramux.v1.Inference.Generate"),
        version=version,
    )
    assert names(answer)[0] == INFERENCE
    database = DescriptorDatabase()
    for file in files(answer):
        database.Add(file)
    pool = descriptor_pool.DescriptorPool(database)
    service = pool.FindServiceByName("loramux.v1.Inference")
    method = service.methods_by_name["Generate"]
    sent, got = (
        message_factory.GetMessageClass(m) for m in (method.input_type, method.output_type)
    )
    call = served.channel.unary_unary(
        "/loramux.v1.Inference/Generate",
        request_serializer=sent.SerializeToString,
        response_deserializer=got.FromString,
    )
    response: Any = await call(
        sent(adapter_id="a1", prompt="hi", max_new_tokens=2, ignore_eos=True)
    )
    assert (response.adapter_id, len(response.choices[0].token_ids)) == ("a1", 2)


@pytest.mark.parametrize("version", VERSIONS)
async def test_details_of_errors_and_reflection_itself_are_told(
    served: Harness, version: str
) -> None:
    packages = {
        "google.rpc.BadRequest": "google.rpc",
        "google.rpc.ResourceInfo": "google.rpc",
        "google.rpc.RetryInfo": "google.rpc",
        "grpc.reflection.v1.ServerReflection.ServerReflectionInfo": "grpc.reflection.v1",
        "grpc.reflection.v1.ServerReflectionRequest.message_request": "grpc.reflection.v1",
        "grpc.reflection.v1alpha.ServerReflection": "grpc.reflection.v1alpha",
    }
    answers = await ask(
        served.channel, *(request(file_containing_symbol=s) for s in packages), version=version
    )
    assert [files(answer)[0].package for answer in answers] == list(packages.values())


async def test_v1_is_v1alpha_under_another_name(served: Harness) -> None:
    answers = await ask(
        served.channel,
        *(request(file_containing_symbol=version) for version in VERSIONS),
        version=reflection.V1,
    )
    (v1,), (v1alpha,) = map(files, answers)
    assert v1.package == "grpc.reflection.v1"
    assert b"v1alpha" not in v1.SerializeToString()
    assert str(v1) == str(v1alpha).replace("v1alpha", "v1")
    # A generated client of the old version meets the same service.
    stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)
    (listed,) = [a async for a in stub.ServerReflectionInfo(iter([request(list_services="")]))]
    assert {s.name for s in listed.list_services_response.service} == SERVICES


@pytest.mark.parametrize("version", VERSIONS)
async def test_reflection_needs_a_token_where_tokens_are_on(
    tiny_base: Path, tmp_path: Path, version: str
) -> None:
    tokens = write_tokens(tmp_path / "tokens.yaml", user={"adapters": ["base"], "read": False})
    asked = request(list_services="")
    async with running(make_settings(tiny_base, auth_file=tokens)) as served:
        call = info(served.channel, version)
        # Nothing is sent: a message on its way when the refusal comes is INTERNAL to gRPC's client.
        await refused(call().read(), grpc.StatusCode.UNAUTHENTICATED)
        answers = [a async for a in call(iter([asked]), metadata=bearer("user"))]
        assert {s.name for s in answers[0].list_services_response.service} == SERVICES


def test_a_name_as_long_as_none_is_looked_for_nowhere() -> None:
    class NoPool:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError("it was looked for")

    pools = reflection._Pools(NoPool())  # type: ignore[arg-type]
    for find in (
        pools.FindFileByName,
        pools.FindFileContainingSymbol,
        pools.FindMessageTypeByName,
    ):
        with pytest.raises(KeyError):
            find("x" * 1_000_000)


def test_a_request_of_many_fields_is_not_parsed() -> None:
    field = request(file_containing_symbol="zoo.Keeper").SerializeToString()
    assert reflection._parsed(field * 2) == request(file_containing_symbol="zoo.Keeper")
    assert reflection._parsed(field * 1000) == request()
