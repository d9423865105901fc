"""What ends an adapter's answers beside the base's ends: its generation_config.json, its tokenizer's
end, and for chats the token that its template writes behind an answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from lora_runtime import (
    AdapterError,
    ChatMessage,
    Choice,
    Engine,
    EngineConfig,
    FinishReason,
    InvalidRequestError,
    Request,
    SamplingParams,
    WeightedAdapter,
)

from ...support.adapters import save_adapter
from ...support.models import make_tokenizer, save_base

PROMPT = (5, 6, 7, 8, 9)
CHAT = (ChatMessage("user", "~"),)
LONG = SamplingParams(max_new_tokens=12)
TURN = "{% for m in messages %}~{{ m.content }}{% if m.role == 'assistant' %}END\n{% endif %}{% endfor %}"


@pytest.fixture(scope="module")
def engine(tiny_base: Path) -> Iterator[Engine]:
    with Engine(tiny_base, EngineConfig(dtype="float32", kv_cache_bytes=4 << 20)) as engine:
        yield engine


Add = Callable[..., Engine]


@pytest.fixture
def add(engine: Engine, tiny_base: Path, tmp_path: Path) -> Iterator[Add]:
    """Loads a random adapter with a generation config and a tokenizer."""
    loaded = []

    def add(
        name: str, eos: object = None, template: str = "", token: str = "", seed: int = 0
    ) -> Engine:
        directory = save_adapter(tiny_base, tmp_path / name, seed)
        if eos is not None:
            config = {"eos_token_id": eos, "transformers_version": "5.0.0"}
            (directory / "generation_config.json").write_text(json.dumps(config))
        if template:
            tokenizer = make_tokenizer()
            tokenizer.add_tokens([token])
            tokenizer.chat_template = template
            tokenizer.save_pretrained(directory)
        engine.load_adapter(directory, name)
        loaded.append(name)
        return engine

    yield add
    for name in loaded:
        engine.unload_adapter(name)


def answer(engine: Engine, adapter_id: str, **fields: object) -> Choice:
    ask = {} if "messages" in fields else {"token_ids": PROMPT}
    request = Request(**{"adapter_id": adapter_id, "sampling": LONG} | ask | fields)  # type: ignore[arg-type]
    return engine.generate(request).choices[0]


@pytest.mark.parametrize("make", [lambda t: t, lambda t: [t], lambda t: [0, t]])
def test_a_generation_config_ends_its_adapter_s_rows(
    add: Add, make: Callable[[int], object]
) -> None:
    engine = add("plain")
    free = answer(engine, "plain").token_ids
    end = free[3]
    add("ends", make(end))
    ended = answer(engine, "ends")
    assert ended.token_ids == free[: free.index(end) + 1]
    assert ended.finish_reason is FinishReason.EOS
    assert answer(engine, "plain").token_ids == free
    whole = answer(engine, "ends", sampling=SamplingParams(max_new_tokens=12, ignore_eos=True))
    assert len(whole.token_ids) == 12
    assert engine.get_adapter("ends").version != engine.get_adapter("plain").version


def test_the_base_s_ends_stay_ends(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends the base's text is no text of an adapter on it."""
    engine = add("ends", [3])
    free = answer(engine, "ends").token_ids
    monkeypatch.setattr(engine.base, "eos_token_ids", frozenset({free[2]}))
    assert answer(engine, "ends").token_ids == free[: free.index(free[2]) + 1]


def test_rows_of_a_composition_end_at_any_of_its_adapters_ends(add: Add) -> None:
    engine = add("one")
    add("two", seed=1)
    parts = (WeightedAdapter("one", 0.5), WeightedAdapter("two", 0.5))
    free = answer(engine, "", adapters=parts).token_ids
    add("ends", free[4], seed=1)
    parts = (WeightedAdapter("one", 0.5), WeightedAdapter("ends", 0.5))
    ended = answer(engine, "", adapters=parts)
    assert ended.token_ids == free[: free.index(free[4]) + 1]


@pytest.mark.parametrize("eos", ["2", True, [1, None], [2.5], list(range(300)), {"a": 1}])
def test_other_values_are_refused_by_name(add: Add, eos: object) -> None:
    with pytest.raises(AdapterError, match=r"generation_config\.json: eos_token_id is"):
        add("bad", eos)


def test_what_is_not_used_is_noted(
    add: Add, engine: Engine, tmp_path: Path, tiny_base: Path
) -> None:
    directory = save_adapter(tiny_base, tmp_path / "noted")
    fields = {"eos_token_id": [2, 100_000], "temperature": 0.5}
    (directory / "generation_config.json").write_text(json.dumps(fields))
    notes = engine.load_adapter(directory, "noted").notes
    assert any("eos_token_id 100000 has no row" in note for note in notes)
    assert any("only eos_token_id is used, not ['temperature']" in note for note in notes)
    engine.unload_adapter("noted")


def token_of(engine: Engine, index: int) -> str:
    return engine.base.tokenizer.convert_ids_to_tokens(index)


def test_the_token_behind_a_turn_ends_chats(add: Add) -> None:
    engine = add("plain", template=TURN.replace("END", ""), token="<none>")
    free = answer(engine, "plain", messages=CHAT).token_ids
    token = token_of(engine, free[2])
    add("turns", template=TURN.replace("END", token), token=token)
    ended = answer(engine, "turns", messages=CHAT)
    assert ended.token_ids == free[: free.index(free[2]) + 1]
    assert ended.finish_reason is FinishReason.EOS
    note = f"its chat template ends a turn with {token!r} ({free[2]}), which is no end-of-sequence"
    assert any(note in one for one in engine.get_adapter("turns").notes)
    # Other prompts are continued, whatever they hold.
    handle = engine.submit(Request(messages=CHAT, adapter_id="turns", sampling=LONG))
    handle.result()
    ids = handle.prompt_token_ids
    assert len(answer(engine, "turns", token_ids=ids).token_ids) == 12


@pytest.mark.parametrize(
    "template", ["{{ messages[5].content }}", "{{ raise_exception('no') }}", "{{ 1 }}", "{% if %}"]
)
def test_a_template_that_does_not_tell_ends_nothing(add: Add, template: str) -> None:
    engine = add("dumb", template=template, token="<none>")
    assert not any("ends a turn with" in note for note in engine.get_adapter("dumb").notes)


def test_the_base_s_own_template(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its turn's end is told once at the start, and ends chats with the base and its adapters."""
    base = save_base(tmp_path / "base", layers=1)
    config = {"kv_cache_bytes": 4 << 20, "dtype": "float32"}
    with Engine(base, EngineConfig(**config)) as engine:  # type: ignore[arg-type]
        assert engine.info().notes == ()
        free = answer(engine, "", messages=CHAT).token_ids
        token = token_of(engine, free[2])
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([token])
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ m.content }}", "{{ m.content + ('" + token + "' if m.role == 'assistant' else '') }}"
    )
    tokenizer.save_pretrained(base)
    adapter = save_adapter(base, tmp_path / "adapter")
    with Engine(base, EngineConfig(**config)) as engine:  # type: ignore[arg-type]
        (note,) = engine.info().notes
        assert f"the base's chat template ends a turn with {token!r} ({free[2]})" in note
        assert note in caplog.text
        assert answer(engine, "", messages=CHAT).token_ids == free[: free.index(free[2]) + 1]
        engine.load_adapter(adapter, "adapter")
        ids = answer(engine, "adapter", messages=CHAT).token_ids
        assert free[2] not in ids[:-1]
        assert len(answer(engine, "").token_ids) == 12


def test_prompts_with_a_token_without_a_row_are_refused(
    engine: Engine, tiny_base: Path, tmp_path: Path
) -> None:
    directory = save_adapter(tiny_base, tmp_path / "padded")
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(directory)
    engine.load_adapter(directory, "padded")
    request = Request(prompt="Hello", adapter_id="padded", sampling=LONG)
    assert engine.generate(request).choices[0].token_ids
    with pytest.raises(InvalidRequestError, match="token id 258 is outside the vocabulary of 258"):
        engine.generate(Request(prompt="a [PAD]", adapter_id="padded", sampling=LONG))
    engine.unload_adapter("padded")
