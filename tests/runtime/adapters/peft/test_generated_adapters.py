"""Generated adapter directories: every row is what PEFT gives, or the adapter is refused by name;
and what PEFT loads is refused for a reason that stands in a list."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings

from ....support.generated_adapters.bases import KINDS
from ....support.generated_adapters.held import Held
from ....support.generated_adapters.recipes import Recipe, recipes

BY_DESIGN = {
    r"'init_lora_weights' = .* it changes the base": "trained on other weights than the base's",
    r"'task_type' = .* is not supported": "a head of another task answers, not the lm_head",
    r"'(layer_replication|megatron_config|target_parameters|use_qalora)' = .* is not supported": (
        "another computation, which PEFT skips here for want of tensors"
    ),
    r"'lora_alpha' = (inf|True|'16') is not a finite number": "no number",
    r"'(r|use_rslora|use_dora)' = .* is (not a positive|neither true)": "of another type",
    r"'target_modules' is empty": "PEFT guesses by the architecture's name",
    r"'layers_to_transform' = .* is not a list of whole": "of another type",
    r"'trainable_token_indices' holds (no tokens|a token twice)": "which row counts is not said",
    r"is not supported: (it is not known|LoRA on parts of a fused layer)": (
        "a field of another tool, which may change what is computed"
    ),
    r"'bias' = .* has no bias in the file": "PEFT leaves the base's in place without a word",
    r"\((weight|bias) of .*\) is not what the config calls for": "it would write into the base",
    r"saved weights of .* differ, but they are tied": "PEFT keeps what it loads last",
    r"has dtype '(F8_E4M3|I32)'": "no weights are trained so",
    r"rows, the tokenizer has": "tokens of the base have no row: another tokenizer's embeddings",
    r"tokenizer has the id \d+, the embeddings have": "a token without a row in every text",
    r"the adapter's tokenizer": "another tokenizer: the base's pipeline is shared",
}
"""Refusals of what PEFT loads, by their messages, with the reason."""


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Held]]:
    root, made = tmp_path_factory.mktemp("generated"), dict[str, Held]()

    def get(kind: str) -> Held:
        if kind not in made:
            made[kind] = Held(root, kind)
        return made[kind]

    yield get
    for one in made.values():
        one.close()


def hold(held: Callable[[str], Held], bases: tuple[str, ...], count: int) -> None:
    found: Counter[str] = Counter()

    @settings(max_examples=count, derandomize=True, database=None, print_blob=True)
    @given(recipes(bases))
    def check(recipe: Recipe) -> None:
        outcome = held(recipe.base).check(recipe)
        found["refused" if outcome.refusal else "served"] += 1
        if outcome.refusal and not outcome.peft:
            known = any(re.search(message, outcome.refusal) for message in BY_DESIGN)
            assert known, f"PEFT loads it, refused here: {outcome.refusal}"

    check()
    assert found["served"] > count * 0.4, found  # else there is little in it


def test_an_adapter_is_equal_or_refused(held: Callable[[str], Held]) -> None:
    hold(held, ("tied", "qwen2"), 25)


@pytest.mark.slow
def test_more_adapters_are_equal_or_refused(held: Callable[[str], Held]) -> None:
    hold(held, KINDS, 120)
