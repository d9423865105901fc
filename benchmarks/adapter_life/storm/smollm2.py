"""The storm on SmolLM2, with rank 4 adapters on all projections."""

from __future__ import annotations

from benchmarks.common.paths import MODEL
from benchmarks.common.workloads import adapter_dir, prompt
from lora_runtime import BaseModel, Engine, EngineConfig

from .answers import collect, pairs_of
from .clients import Cast
from .run import StormReport, run_storm

_PROMPT_LENGTHS = (5, 40, 70)
_PAIRED = 4
_FRAGILE = 4


def storm_smollm2(
    adapters: int, slots: int, seconds: float, seed: int, threads: int
) -> StormReport:
    """Host memory holds 20 adapters beside those in slots: the others are read from disk again and
    again."""
    contents = [adapter_dir(f"r4-{i:04d}", MODEL) for i in range(adapters + _PAIRED + _FRAGILE)]
    paired, fragile = contents[: 2 * _PAIRED], contents[2 * _PAIRED : 2 * (_PAIRED + _FRAGILE)]
    plain = contents[2 * (_PAIRED + _FRAGILE) :]
    cast = Cast(
        {f"plain-{i}": [content, *plain] for i, content in enumerate(plain)},
        {f"paired-{i}": paired[2 * i : 2 * i + 2] for i in range(_PAIRED)},
        {f"fragile-{i}": fragile[2 * i : 2 * i + 2] for i in range(_FRAGILE)},
    )
    prompts = [prompt(MODEL, i, length) for i, length in enumerate(_PROMPT_LENGTHS)]
    base = BaseModel.load(MODEL)
    with Engine(
        base,
        EngineConfig(prefix_caching=False, max_adapters=len(contents), kv_cache_bytes=64 << 20),
    ) as quiet:
        num_bytes = quiet.load_adapter(contents[0], "size").num_bytes
        quiet.unload_adapter("size")
        answers = collect(quiet, contents, pairs_of(list(cast.paired.values())), prompts)
    config = EngineConfig(
        max_adapters=slots,
        adapter_host_bytes=20 * num_bytes,
        kv_cache_bytes=32 << 20,
        max_running=32,
    )
    with Engine(base, config) as engine:
        return run_storm(engine, cast, answers, seconds, seed, threads)
