"""The client's wheel in an environment that has grpcio, protobuf and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from ..support.servers import make_settings, running

pytestmark = pytest.mark.slow
NEEDED = [
    "google/_upb",
    "google/protobuf",
    "grpc",
    "grpcio-*.dist-info",
    "protobuf-*.dist-info",
    "typing_extensions-*.dist-info",
    "typing_extensions.py",
]
# Long, as the tokens that are there when a busy machine gets to them go out as one event.
FIELDS = {"adapter_id": "a1", "prompt": "hi", "max_new_tokens": 200, "ignore_eos": True}
PROGRAM = """
import asyncio, json, sys
from importlib.util import find_spec
from loramux_client import AsyncClient, CallError, Client

target, fields = sys.argv[1], json.loads(sys.argv[2])

async def main():
    async with AsyncClient(target) as client:
        return [event.text async for event in client.stream(**fields)]

with Client(target) as client:
    whole = client.generate(**fields).text
    streamed = [event.text for event in client.stream(**fields)]
    try:
        client.generate(prompt="hi", top_p=7)
    except CallError as error:
        field = error.violations[0].field
there = [name for name in ("torch", "numpy", "google.rpc", "lora_runtime", "server") if find_spec(name)]
print(json.dumps([whole, streamed, asyncio.run(main()), field, there]))
"""


@pytest.fixture(scope="module")
def environment(client_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("client-only")
    venv.create(directory)
    (packages,) = directory.glob("lib/python*/site-packages")
    here = Path(sysconfig.get_path("purelib"))
    (packages / "google").mkdir()
    for pattern in NEEDED:
        for one in here.glob(pattern):
            (packages / one.relative_to(here)).symlink_to(one)
    pip = [sys.executable, "-m", "pip", "--python", str(directory / "bin/python")]
    # With its requirements: what is there must be all that it asks for.
    subprocess.run([*pip, "install", "--quiet", "--no-index", str(client_wheel)], check=True)
    return directory


async def test_it_streams_where_there_is_no_torch(
    environment: Path, tiny_base: Path, tiny_adapters: dict[str, Path]
) -> None:
    variables = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
    async with running(make_settings(tiny_base, {"a1": tiny_adapters["a1"]})) as served:
        done = await asyncio.to_thread(
            subprocess.run,
            [str(environment / "bin/python"), "-c", PROGRAM, served.target, json.dumps(FIELDS)],
            cwd=environment,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        whole, streamed, streamed_async, field, there = json.loads(done.stdout)
        answer = await served.generate(**FIELDS)
    assert whole == "".join(streamed) == "".join(streamed_async) == answer.text
    assert len(streamed) > 1
    assert field == "top_p"
    assert there == []
