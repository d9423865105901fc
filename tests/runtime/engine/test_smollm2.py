"""The real base, SmolLM2-135M-Instruct in float32, with four adapters, against PEFT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_runtime import BaseModel, ChatMessage, Engine, EngineConfig, Request, SamplingParams
from lora_runtime.requests.text.detokenize import IncrementalDetokenizer

from ...support.adapters import save_adapter
from ...support.models import SCRIPTS
from ...support.reference import LogitsRecorder, PeftReference, relative_error

ROOT = Path(__file__).parents[3]
BASE = ROOT / ".models" / "SmolLM2-135M-Instruct"
TOKENS = 16
QUESTIONS = ["What is the capital of France?", "I loved every minute of the trip! " * 8]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three demo adapters and a random one on all projections: ranks 8, 4, 16 and 32."""
    assert (BASE / "config.json").is_file(), "the base model is missing: run `make base`"
    demo = {name: ROOT / "examples" / "adapters" / name for name in ("pirate", "json", "sentiment")}
    wide = save_adapter(
        BASE,
        tmp_path_factory.mktemp("adapters") / "wide",
        r=32,
        lora_alpha=1,
        use_rslora=True,
        target_modules="all-linear",
    )
    return demo | {"wide": wide}


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return BaseModel.load(BASE, dtype="float32")


@pytest.fixture(scope="module")
def engine(base: BaseModel, adapters: dict[str, Path]) -> Iterator[Engine]:
    # Small steps, so that the longer prompts are prefilled in chunks beside decoding rows.
    with Engine(
        base, EngineConfig(max_running=16, max_batch_tokens=48, kv_cache_bytes=256 << 20)
    ) as engine:
        for name, path in adapters.items():
            engine.load_adapter(path, name)
        yield engine


@pytest.mark.slow
def test_mixed_batch_equals_peft(engine: Engine, adapters: dict[str, Path]) -> None:
    recorder = LogitsRecorder(engine)
    sampling = SamplingParams(max_new_tokens=TOKENS, ignore_eos=True)
    keys = [(a, i) for i in range(len(QUESTIONS)) for a in ("", *adapters)]
    handles = {
        (a, i): engine.submit(
            Request(
                messages=(ChatMessage("user", QUESTIONS[i]),),
                adapter_id=a,
                sampling=sampling,
                request_id=f"{a}/{i}",
            )
        )
        for a, i in keys
    }
    results = {key: handle.result() for key, handle in handles.items()}
    reference = PeftReference(BASE, adapters)
    for a, i in keys:
        expected = reference.greedy(a, handles[a, i].prompt_token_ids, TOKENS)
        assert list(results[a, i].choices[0].token_ids) == expected.tokens, (a, i)
        assert relative_error(recorder.of(f"{a}/{i}"), expected.logits) < 1e-4, (a, i)


def test_the_base_and_the_demo_adapters_answer(engine: Engine) -> None:
    def ask(adapter: str, question: str) -> str:
        messages = (ChatMessage("user", question),)
        return engine.generate(Request(messages=messages, adapter_id=adapter)).text

    assert ask("", QUESTIONS[0]) == "The capital of France is Paris."
    assert ask("pirate", QUESTIONS[0]).startswith(("Arr", "Ahoy", "Avast", "Shiver"))
    assert ask("json", QUESTIONS[0]) == '{"answer": "The capital of France is Paris."}'
    assert ask("sentiment", "The soup was cold and the waiter rude.") == "negative"


@pytest.mark.parametrize("text", SCRIPTS)
def test_incremental_text_of_the_real_tokenizer(base: BaseModel, text: str) -> None:
    """The tokenizer splits most of these characters into several tokens."""
    ids = base.tokenizer(text, add_special_tokens=False)["input_ids"]
    detokenizer = IncrementalDetokenizer(base.tokenizer)
    pieces = [detokenizer.push(t) for t in ids] + [detokenizer.flush()]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
