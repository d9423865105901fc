"""Adapters of bases whose vocabulary the trainer resized: fewer rows than the base's, and rows that
the file does not hold. Each request of one mixed batch is as PEFT gives it alone, on the resized
base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_runtime import (
    AdapterError,
    BaseMismatchError,
    BaseModel,
    Engine,
    EngineConfig,
    InvalidRequestError,
    Request,
    SamplingParams,
    WeightedAdapter,
)
from lora_runtime.adapters.peft.inspect import describe_base
from lora_runtime.adapters.peft.loader import read_adapter

from ....support.adapters import edit_config, edit_tensors, save_adapter
from ....support.device import PATHS
from ....support.models import save_base
from ....support.reference import PeftReference

ROWS, FEWER, MORE = 300, 260, 303
"""The base's, padded far beyond its tokenizer's 258; and those of adapters."""
TOKENS = 5
PROMPT = tuple((i * 37 + 11) % 250 for i in range(21))
BARE = {"save_embedding_layers": False}
HEAD, EMBED = "base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight"
SAVED = ["embed_tokens", "lm_head"]
LAYER = {"layers_to_transform": [0]}
KINDS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (FEWER, {}),
    "plain too": (FEWER + 9, {}),
    "as many": (ROWS, {}),
    "saved": (FEWER, {"modules_to_save": SAVED}),
    "saved embedding": (FEWER, {"modules_to_save": ["embed_tokens"], "save": BARE}),
    "lora": (FEWER, {"target_modules": ["q_proj", *SAVED]}),
    "lora alone": (FEWER, {"target_modules": ["q_proj", *SAVED], "save": BARE}),
    "lora on the head": (FEWER, {"target_modules": ["q_proj", "lm_head"], "save": BARE}),
    "dora": (FEWER, {"target_modules": ["q_proj", *SAVED], "use_dora": True}),
    "dora alone": (FEWER, {"target_modules": ["lm_head"], "use_dora": True, "save": BARE}),
    "tokens": (FEWER, {"trainable_token_indices": [PROMPT[0], 259], **LAYER}),
    "embedding in the file": (FEWER, {"drop": HEAD}),
    "head in the file": (FEWER, {"drop": EMBED}),
    "activated": (FEWER, {"alora_invocation_tokens": list(PROMPT[9:11])}),
    "more": (MORE, {"modules_to_save": ["embed_tokens"], "save": BARE}),
    "more, head": (MORE, {"modules_to_save": ["lm_head"], "save": BARE}),
    "more, lora": (MORE, {"target_modules": ["q_proj", "embed_tokens"], "save": BARE}),
    "more, tokens": (
        MORE,
        {"trainable_token_indices": [PROMPT[1], *range(ROWS, MORE)], "save": BARE, **LAYER},
    ),
    "more, embedding in the file": (MORE, {"drop": HEAD}),
    "more, head in the file": (MORE, {"drop": EMBED}),
}

UNTIED = ("plain", "plain too", "as many", "saved", "lora", "activated", "more", "more, tokens")


@dataclass
class Case:
    base: Path
    adapters: dict[str, Path]
    expected: dict[str, tuple[list[int], torch.Tensor]]
    bases: dict[str, BaseModel]

    def prompt(self, kind: str) -> tuple[int, ...]:
        rows = KINDS[kind][0]
        return (rows - 1, *PROMPT) if rows >= MORE else PROMPT


def without(dropped: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {name: t for name, t in tensors.items() if name != dropped}


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """gemma2: tied, and soft-capped, which makes no -inf of anything."""
    root = tmp_path_factory.mktemp(request.param)
    base = save_base(root / "base", request.param, layers=2, vocab_size=ROWS)
    bases = {name: BaseModel.load(base, dtype="float32", **how) for name, how in PATHS.items()}
    case = Case(base, {}, {}, bases)
    kinds = KINDS if request.param == "gemma2" else {kind: KINDS[kind] for kind in UNTIED}
    for i, (kind, (rows, lora)) in enumerate(kinds.items()):
        where, lora = root / str(i), dict(lora)
        dropped = lora.pop("drop", "")
        case.adapters[kind] = save_adapter(base, where, i, added_tokens=rows - ROWS, **lora)
        if dropped:
            edit_tensors(where, without(dropped))
        reference = PeftReference(base, {"it": where}, rows)
        found = reference.greedy("it", case.prompt(kind), TOKENS)
        case.expected[kind] = found.tokens, found.logits
    return case


@pytest.fixture(scope="module", params=PATHS)
def engine(request: pytest.FixtureRequest, case: Case) -> Any:
    config = EngineConfig(dtype="float32", kv_cache_bytes=8 << 20, max_running=40)
    with Engine(case.bases[request.param], config) as engine:
        for kind, path in case.adapters.items():
            engine.load_adapter(path, kind.replace(" ", "-"))
        yield engine


def ask(kind: str, prompt: tuple[int, ...], **sampling: Any) -> Request:
    params = {"max_new_tokens": TOKENS, "ignore_eos": True, "logprobs": 3} | sampling
    return Request(
        token_ids=prompt, adapter_id=kind.replace(" ", "-"), sampling=SamplingParams(**params)
    )


def test_one_batch_equals_peft_on_the_resized_base(case: Case, engine: Engine) -> None:
    handles = {kind: engine.submit(ask(kind, case.prompt(kind))) for kind in case.expected}
    for kind, (tokens, logits) in case.expected.items():
        choice = handles[kind].result().choices[0]
        assert list(choice.token_ids) == tokens, kind
        wanted = logits.float().log_softmax(-1)
        for step, logprob in enumerate(choice.logprobs):
            best = wanted[step].topk(3)
            assert [i for i, _ in logprob.top] == best.indices.tolist(), kind
            own = torch.tensor([logprob.logprob, *(value for _, value in logprob.top)])
            theirs = torch.cat([wanted[step, tokens[step], None], best.values])
            assert torch.allclose(own, theirs, atol=1e-4), kind


def test_missing_rows_are_never_sampled_and_refused_in_prompts(case: Case, engine: Engine) -> None:
    """At a temperature at which all tokens are about as likely."""
    hot = {"temperature": 100.0, "max_new_tokens": 60, "logprobs": None}
    for kind, rows in (("plain", FEWER), ("saved", FEWER), ("as many", ROWS)):
        drawn = engine.generate(ask(kind, PROMPT, seed=1, **hot)).choices[0].token_ids
        assert (max(drawn) >= FEWER) == (rows == ROWS)
        with pytest.raises(InvalidRequestError, match=f"{rows} is outside the vocabulary"):
            engine.generate(ask(kind, (*PROMPT, rows)))
        engine.generate(ask(kind, (*PROMPT, rows - 1)))


def test_a_composition_has_the_tokens_that_all_have(case: Case, engine: Engine) -> None:
    names = ["plain too", "plain", "as many"]
    mix = tuple(WeightedAdapter(name.replace(" ", "-"), 0.4) for name in names)
    sampling = SamplingParams(max_new_tokens=40, temperature=100.0, seed=1, ignore_eos=True)
    request = Request(token_ids=PROMPT, adapters=mix, sampling=sampling)
    assert max(engine.generate(request).choices[0].token_ids) < FEWER
    with pytest.raises(InvalidRequestError, match=f"outside the vocabulary of {FEWER}"):
        engine.submit(Request(token_ids=(FEWER,), adapters=mix))


def test_notes(case: Case, engine: Engine) -> None:
    notes = {kind: engine.get_adapter(kind.replace(" ", "-")).notes for kind in case.expected}
    assert any(f"{FEWER} of the base's {ROWS} tokens" in note for note in notes["plain"])
    assert any("3 rows added to lm_head are not in the file" in note for note in notes["more"])
    assert not any("rows" in note for note in notes["as many"])


def test_activated_lora_takes_no_other_rows(case: Case, engine: Engine, tmp_path: Path) -> None:
    """Rows before it starts are the base's, which PEFT replaces."""
    adapter = save_adapter(
        case.base,
        tmp_path / "adapter",
        added_tokens=FEWER - ROWS,
        alora_invocation_tokens=[1],
    )
    edit_tensors(adapter, lambda t: t | {name: t[name] + 1 for name in (HEAD, EMBED)})
    with pytest.raises(AdapterError, match=r"is not the base's: .* alora_invocation_tokens"):
        engine.load_adapter(adapter, "changed")


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("padded") / "base", layers=1, vocab_size=ROWS)


def read(base: Path, adapter: Path, **limits: Any) -> Any:
    limits = {"max_bytes": 1 << 30, "max_added_tokens": 8} | limits
    return read_adapter(adapter, describe_base(base), **limits)


def test_rows_for_the_tokens_but_added_ones(padded: Path, tmp_path: Path) -> None:
    """As many as `tokenizer.vocab_size` says, which trainers resize to as well."""
    base = describe_base(padded)
    base.tokenizer.add_tokens(["<one>", "<two>", "<three>"])
    assert base.tokenizer.vocab_size <= FEWER < len(base.tokenizer)
    adapter = save_adapter(padded, tmp_path / "adapter", added_tokens=FEWER - ROWS)
    checked = read_adapter(adapter, base, max_bytes=1 << 30, max_added_tokens=8)
    assert checked.vocab_size == FEWER


@pytest.mark.parametrize(
    ("change", "kind", "names"),
    [
        (lambda t: t | {HEAD: t[HEAD][:257]}, AdapterError, "257 in .*lm_head.*260 in .*embed"),
        (
            lambda t: t | {name: t[name][:257].clone() for name in (HEAD, EMBED)},
            BaseMismatchError,
            "257 rows, the tokenizer has 258 tokens",
        ),
        (
            lambda t: t | {name: t[name][:, :60].clone() for name in (HEAD, EMBED)},
            BaseMismatchError,
            "embed_tokens",
        ),
        (
            lambda t: t | {name: torch.ones(ROWS + 9, 64) for name in (HEAD, EMBED)},
            AdapterError,
            "adds 9 tokens to the base's vocabulary, max_added_tokens is 8",
        ),
    ],
    ids=range(4),
)
def test_refusals(padded: Path, tmp_path: Path, change: Callable, kind: type, names: str) -> None:
    adapter = save_adapter(padded, tmp_path / "adapter", added_tokens=FEWER - ROWS)
    edit_tensors(adapter, lambda t: {k: v.contiguous() for k, v in change(t).items()})
    with pytest.raises(AdapterError, match=names) as caught:
        read(padded, adapter)
    assert type(caught.value) is kind


def test_tokens_that_were_not_resized_for(padded: Path, tmp_path: Path) -> None:
    adapter = save_adapter(padded, tmp_path / "adapter", trainable_token_indices=[1])
    edit_config(adapter, trainable_token_indices=[ROWS + 8])
    with pytest.raises(AdapterError, match=r"adds 9 tokens.* max_added_tokens is 8"):
        read(padded, adapter)
    other = save_adapter(
        padded, tmp_path / "other", added_tokens=FEWER - ROWS, trainable_token_indices=[1]
    )
    edit_config(other, trainable_token_indices=[FEWER])
    with pytest.raises(AdapterError, match=f"token {FEWER} is outside the {FEWER}"):
        read(padded, other)
