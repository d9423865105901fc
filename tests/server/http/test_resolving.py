"""Models that are brought in by the HTTP calls that name them."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from ...support.http_front import http_running
from ...support.servers import make_settings


async def test_a_model_that_is_a_directory_below_a_root_is_brought_in(
    tiny_base: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    shutil.copytree(tiny_adapters["a1"], root / "sql")
    (root / "broken").mkdir()
    (root / "broken" / "adapter_config.json").write_text("{")
    settings = make_settings(tiny_base, adapter_roots=[root], resolve_adapters=True)
    async with http_running(settings) as front:

        async def complete(model: str) -> Any:
            body = {"model": model, "prompt": "hi", "max_tokens": 4}
            return await front.post("/v1/completions", body)

        answers = await asyncio.gather(*(complete("sql") for _ in range(4)))
        assert [a.status_code for a in answers] == [200] * 4
        assert {a.json()["model"] for a in answers} == {"sql"}
        listed = (await front.get("/v1/models")).json()["data"]
        assert "sql" in {model["id"] for model in listed}
        assert (await complete("nowhere")).status_code == 404
        broken = await complete("broken")
        assert broken.status_code == 400
        assert broken.json()["error"]["message"] == (
            "LoRA adapter 'broken' was found but could not be loaded."
        )
        gone = await front.post("/v1/unload_lora_adapter", {"lora_name": "sql"})
        assert gone.status_code == 200
        assert (await complete("sql")).status_code == 200  # as vLLM's resolver does
