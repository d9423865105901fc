"""loramux held to PEFT: an adapter's rows in a mixed batch are equal, or it is refused by name."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from lora_runtime import (
    AdapterError,
    AdapterInfo,
    ChatMessage,
    Choice,
    Engine,
    EngineConfig,
    InvalidRequestError,
    Request,
    SamplingParams,
)
from lora_runtime.adapters.peft.fields import FIELDS

from ..engines import at_once
from .bases import ROWS, save_base
from .changes import BROKEN_SHARDS, ODD_NAMES
from .oracle import ByPeft, by_peft
from .recipes import Recipe
from .writing import write

COUNT, TOLERANCE = 4, 2e-3
TEXT = "Hello <unused> the tin, <|im_start|>User  two 17 words<|im_end|> <new> newword <New>~ <extra_9>"
CHAT = (ChatMessage("user", "What is in the tin? "), ChatMessage("user", " the End"))
_FILES = ("adapter_model", "adapter_config", "tokenizer", "generation_config")


@dataclass(frozen=True)
class Outcome:
    """What came of a directory. `refusal`: "" for one that is served; `peft`: what PEFT cannot
    load of it."""

    refusal: str
    peft: str
    notes: tuple[str, ...] = ()


class Held:
    """A base in an engine, and beside it in transformers."""

    def __init__(self, root: Path, kind: str) -> None:
        self.root, self.directory = root, save_base(root / kind, kind)
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            self.directory, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(self.directory)
        self.engine = Engine(
            self.directory,
            EngineConfig(dtype="float32", kv_cache_bytes=4 << 20, max_batch_tokens=128),
        )
        self.engine.start()
        self.base = ByPeft(self.model)

    def close(self) -> None:
        self.engine.shutdown()

    def check(self, recipe: Recipe) -> Outcome:
        """Write, load and serve. Raises AssertionError for anything but an equal or a refused
        adapter."""
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            directory, plain = write(recipe, self.model, self.tokenizer, Path(folder))
            peft = by_peft(self.model, plain, recipe.headless)
            try:
                info = self._load(recipe, directory)
            except AdapterError as error:
                return Outcome(_checked(str(error)), peft.problem or _odd(recipe))
            try:
                self._check_served(directory, info, peft)
            finally:
                self.engine.unload_adapter("it", timeout_s=10)
        return Outcome("", peft.problem, info.notes)

    def _load(self, recipe: Recipe, directory: Path) -> AdapterInfo:
        unknown = recipe.allow_unknown_fields
        return self.engine.load_adapter(directory, "it", allow_unknown_fields=unknown)

    def _check_served(self, directory: Path, info: AdapterInfo, peft: ByPeft) -> None:
        assert peft.model is not None, f"served, but PEFT: {peft.problem}"
        rows = peft.model.get_input_embeddings().weight.shape[0]
        prompt = [(i * 37 + 11) % rows for i in range(100)] + [rows - 1]
        own = self._own_tokenizer(directory)
        with at_once(self.engine):
            ids = self._submit("it", {"token_ids": tuple(prompt)})
            base = self._submit("", {"token_ids": tuple(range(100))})
            texts = [
                self._submit_text(fields, wanted, rows)
                for fields, wanted in (
                    ({"prompt": TEXT}, own(TEXT)["input_ids"]),
                    ({"messages": CHAT}, _chat_ids(own)),
                )
            ]
        self._check_rows(base, self.base)
        for handle in filter(None, [ids, *texts]):
            self._check_rows(handle, peft)
        if texts[0]:
            answer = texts[0].result().choices[0]
            assert answer.text == _continued(own, texts[0].prompt_token_ids, answer.token_ids)
        self._check_end(directory, prompt, ids.result().choices[0].token_ids)
        if self._is_base(peft, prompt):
            assert info.notes, "it changes nothing, without a note"
        if peft.problem:
            assert info.notes, f"served without a note, PEFT: {peft.problem}"

    def _submit(self, adapter: str, fields: dict[str, Any]) -> Any:
        sampling = SamplingParams(max_new_tokens=COUNT, ignore_eos=True, logprobs=20)
        return self.engine.submit(Request(adapter_id=adapter, sampling=sampling, **fields))

    def _submit_text(self, fields: dict[str, Any], wanted: list[int], rows: int) -> Any:
        """None where the request is refused, for tokens without a row."""
        try:
            handle = self._submit("it", fields)
        except InvalidRequestError as error:
            return _without_row(str(error), wanted, rows)
        assert list(handle.prompt_token_ids) == wanted, "ids of a text"
        return handle

    def _check_rows(self, handle: Any, expected: ByPeft) -> None:
        choice: Choice = handle.result().choices[0]
        ids = [*handle.prompt_token_ids, *choice.token_ids[:-1]]
        wanted = expected.logprobs(ids, len(choice.token_ids))
        for row, token, found in zip(wanted, choice.token_ids, choice.logprobs, strict=True):
            assert row.max() - row[token] < TOLERANCE, f"token {token}, not {int(row.argmax())}"
            for other, logprob in (*found.top, (token, found.logprob)):
                assert abs(float(row[other]) - logprob) < TOLERANCE, (
                    f"logprob of {other}: {logprob}, not {float(row[other])}"
                )

    def _check_end(self, directory: Path, prompt: Sequence[int], tokens: Sequence[int]) -> None:
        """A generation_config.json in the directory names tokens that end an answer."""
        path = directory / "generation_config.json"
        if not path.exists():
            return
        ends = json.loads(path.read_text())["eos_token_id"]
        sampling = SamplingParams(max_new_tokens=COUNT)
        request = Request(token_ids=tuple(prompt), adapter_id="it", sampling=sampling)
        found = self.engine.generate(request).choices[0].token_ids
        end = next((i for i, token in enumerate(tokens) if token in ends), COUNT)
        assert found == tuple(tokens[: end + 1]), f"{found} of {tokens}"

    def _is_base(self, peft: ByPeft, prompt: Sequence[int]) -> bool:
        shared = [i for i in prompt if i < ROWS]
        mine, base = (m.logprobs(shared, len(shared)) for m in (peft, self.base))
        return mine.shape == base.shape and bool((mine - base).abs().max() < 1e-9)

    def _own_tokenizer(self, directory: Path) -> Any:
        """The directory's tokenizer, the base's where it has none."""
        if not (directory / "tokenizer.json").exists():
            return self.tokenizer
        named = (directory / "tokenizer_config.json").exists()  # its class
        own = (AutoTokenizer if named else PreTrainedTokenizerFast).from_pretrained(directory)
        own.chat_template = own.chat_template or self.tokenizer.chat_template
        return own


def _chat_ids(tokenizer: Any) -> list[int]:
    messages = [{"role": m.role, "content": m.content} for m in CHAT]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]


def _continued(tokenizer: Any, prompt: Sequence[int], answer: Sequence[int]) -> str:
    before, whole = (
        tokenizer.decode(list(ids), skip_special_tokens=True)
        for ids in (prompt, [*prompt, *answer])
    )
    return whole[len(before) :]


def _without_row(message: str, ids: Sequence[int], rows: int) -> None:
    """Check that the message names a token that has no row."""
    beyond = {str(token) for token in ids if token >= rows}
    assert beyond & set(re.findall(r"\d+", message)), message


def _odd(recipe: Recipe) -> str:
    """What PEFT cannot read of the directory, nor anybody else."""
    odd = [recipe.names] * (recipe.names in ODD_NAMES)
    return ", ".join(odd + [recipe.shards] * (recipe.shards in BROKEN_SHARDS))


def _checked(message: str) -> str:
    """A refusal's message, which names a tensor, a module, a field or a file."""
    words = set(re.findall(r"\w+", message))
    assert "'" in message or any(f in message for f in _FILES) or words & FIELDS.keys(), message
    return message
