"""Adapters brought in by the requests that name them, from below the server's roots."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest
from loramux.v1 import inference_pb2

from server.load_settings import load
from server.sources import SettingsError

from ...support.servers import Harness, make_settings, refused, running
from ...support.tokens import bearer, write_tokens

EIGHT: dict[str, Any] = {"prompt": "hello", "max_new_tokens": 8, "ignore_eos": True}


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return write_tokens(
        tmp_path / "tokens.yaml", all={"adapters": ["*"]}, team={"adapters": ["a1", "team-*"]}
    )


async def test_requests_bring_in_what_is_below_a_root(
    tiny_base: Path, tiny_adapters: dict[str, Path], tokens: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    (root / "team-x").mkdir(parents=True)
    for name in ("a1", "team-x/sql"):
        (root / name).symlink_to(tiny_adapters["a1"])
    (root / "broken").mkdir()
    (root / "broken" / "adapter_config.json").write_text("{")
    (root / "out").symlink_to(tokens.parent)
    shutil.copytree(tiny_adapters["a1"], tmp_path / "theirs")
    (root / "theirs").symlink_to(tmp_path / "theirs")
    settings = make_settings(
        tiny_base,
        {"a0": tiny_adapters["a0"]},
        auth_file=tokens,
        adapter_roots=[root, tiny_adapters["a1"].parent],
        resolve_adapters=True,
    )
    async with running(settings) as served:
        first = await _ask(served, "a1", "team")
        assert list(first.choices[0].token_ids) == list(
            (await _ask(served, "team-x/sql", "team")).choices[0].token_ids
        )
        assert first.adapter_version
        both = [{"adapter_id": name} for name in ("a2", "a3")]
        assert len((await _ask(served, both, "all")).adapters) == 2
        engine = served.app.engine
        assert set(engine.adapter_ids()) == {"a0", "a1", "team-x/sql", "a2", "a3"}
        # What is outside the scope is not even looked for.
        await refused(_ask(served, "a4", "team"), grpc.StatusCode.PERMISSION_DENIED)
        for name in ("nowhere", "out", "../tokens.yaml"):
            await refused(_ask(served, name, "all"), grpc.StatusCode.NOT_FOUND)
        for name in ("broken", "theirs"):
            error = await refused(_ask(served, name, "all"), grpc.StatusCode.INVALID_ARGUMENT)
            assert error.details() == f"LoRA adapter '{name}' was found but could not be loaded."
        assert len(engine.adapter_ids()) == 5


async def _ask(served: Harness, adapter: Any, who: str) -> Any:
    named = {"adapter_id": adapter} if isinstance(adapter, str) else {"adapters": adapter}
    request = inference_pb2.GenerateRequest(**named, **EIGHT)
    return await served.inference.Generate(request, metadata=bearer(who))


async def test_nothing_is_resolved_unless_it_is_switched_on(
    tiny_base: Path, tiny_adapters: dict[str, Path]
) -> None:
    root = tiny_adapters["a1"].parent
    async with running(make_settings(tiny_base, adapter_roots=[root])) as served:
        await refused(served.generate(adapter_id="a1", **EIGHT), grpc.StatusCode.NOT_FOUND)


def test_resolving_needs_a_place() -> None:
    with pytest.raises(SettingsError, match="resolve_adapters needs adapter_roots"):
        load({"base": "x", "resolve_adapters": True})
