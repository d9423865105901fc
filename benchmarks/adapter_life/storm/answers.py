"""What a storm's requests must answer, taken beforehand from an engine that does nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

from lora_runtime import AdapterUse, Engine, Request, SamplingParams, WeightedAdapter

Key = tuple[tuple[str, float], ...]
"""(version, weight) of every adapter of a request; empty for the base."""
LENGTH = 12
"""Tokens that are known of every answer."""
PAIR_WEIGHTS = (0.75, 0.5)


@dataclass(frozen=True)
class Answers:
    """Greedy tokens by adapters and prompt."""

    prompts: tuple[tuple[int, ...], ...]
    tokens: dict[tuple[Key, int], tuple[int, ...]]

    @property
    def distinct(self) -> float:
        """Of all answers, the share that no other adapter gives: wrong adapters show only in these."""
        answers = [(prompt, tokens) for (_, prompt), tokens in self.tokens.items()]
        return len(set(answers)) / len(answers)

    def problem(
        self, uses: Sequence[AdapterUse], prompt: int, got: Sequence[int], length: int | None
    ) -> str:
        """What is wrong with the tokens of an answer; empty if nothing is. `length` None: it may
        have been cut off."""
        key = tuple((use.version, use.weight) for use in uses)
        known = self.tokens.get((key, prompt))
        if known is None:
            return f"unknown version: {uses}"
        if length is not None and len(got) != length:
            return f"{len(got)} tokens instead of {length} from {uses}"
        if tuple(got) != known[: len(got)]:
            return f"{list(got)} instead of {list(known)} from {uses}"
        return ""


def collect(
    engine: Engine,
    contents: Sequence[Path],
    pairs: Iterable[tuple[Path, Path]],
    prompts: Sequence[Sequence[int]],
) -> Answers:
    """Ask the base, every adapter and every pair for every prompt. `engine` has nothing loaded, and
    is left so."""
    names = {path: f"content-{i}" for i, path in enumerate(contents)}
    for path, name in names.items():
        engine.load_adapter(path, name)
    asked: list[tuple[WeightedAdapter, ...]] = [
        (),
        *((WeightedAdapter(name),) for name in names.values()),
    ]
    asked += [
        tuple(WeightedAdapter(names[p], w) for p, w in zip(pair, PAIR_WEIGHTS, strict=True))
        for pair in pairs
    ]
    sampling = SamplingParams(max_new_tokens=LENGTH, ignore_eos=True)
    tokens: dict[tuple[Key, int], tuple[int, ...]] = {}
    for uses in asked:
        handles = [
            engine.submit(Request(token_ids=tuple(p), adapters=uses, sampling=sampling))
            for p in prompts
        ]
        for number, handle in enumerate(handles):
            key = tuple((use.version, use.weight) for use in handle.adapters)
            tokens[key, number] = handle.result().choices[0].token_ids
    for name in names.values():
        engine.unload_adapter(name, timeout_s=10)
    return Answers(tuple(map(tuple, prompts)), tokens)


def pairs_of(groups: Sequence[Sequence[Path]]) -> list[tuple[Path, Path]]:
    """Every content of a group beside every content of each later group."""
    return [pair for first, second in combinations(groups, 2) for pair in product(first, second)]
