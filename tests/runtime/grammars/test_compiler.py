"""Compilation: hostile grammars cost their caller alone, within bounds; others are kept."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, nullcontext
from typing import Any

import pytest
from llguidance import LLMatcher, LLParserLimits
from tokenizers import AddedToken

from lora_runtime import (
    CallerLimitError,
    EngineStoppedError,
    InvalidRequestError,
    StructuredAnswer,
)
from lora_runtime.adapters.peft.tokenizer.renumbered import Renumbering, renumber
from lora_runtime.foreign.process import WORKERS, WorkError, WorkLimits, WorkTimeoutError
from lora_runtime.foreign.template_queue import MAX_WAITING
from lora_runtime.grammars import check, tokens
from lora_runtime.grammars.check import CHECK
from lora_runtime.grammars.compiler import GRAMMAR_BYTES, Grammars
from lora_runtime.grammars.grammar import Grammar
from lora_runtime.grammars.source import grammar_of
from lora_runtime.grammars.tokens import TokenTables

from ...support.faults import Raise, exception, panic
from ...support.models import EOS, VOCAB, make_tokenizer

Compile = Callable[[StructuredAnswer], str]
CHAIN = "start: r0\n" + "\n".join(f'r{i}: r{i + 1} | "a"' for i in range(4000)) + '\nr4000: "b"'
HOSTILE = {
    "a long computation": ("json_schema", '{"type": "integer", "multipleOf": 1000003}'),
    "a stack that overflows": ("lark", CHAIN),
    "many properties": (
        "json_schema",
        '{"properties": {' + ",".join(f'"{i}": true' for i in range(5000)) + "}}",
    ),
    "all of many expressions": (
        "lark",
        "start: A\nA: " + " & ".join(f"/(.*{chr(97 + i)}.{{20}}){{3}}/" for i in range(20)),
    ),
    "deep parentheses": ("regex", "(" * 20000 + "a" + ")" * 20000),
}


@pytest.mark.parametrize(("kind", "text"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_grammars_are_refused(compile_it: Compile, kind: str, text: str) -> None:
    assert compile_it(StructuredAnswer(kind, text))
    assert not compile_it(StructuredAnswer("regex", "[a-z]{5}"))


def test_what_runs_out_of_time_and_memory(compile_it: Compile) -> None:
    answer = StructuredAnswer(*HOSTILE["a long computation"])
    assert compile_it(answer) == "cannot be compiled within 1 s and 256 MiB"


def test_the_time_of_a_trial_is_the_processor_s(grammars: Grammars) -> None:
    text = grammar_of(StructuredAnswer(*HOSTILE["a long computation"]))
    limits = WorkLimits(60.0, GRAMMAR_BYTES, cpu_seconds=0.05)
    with WORKERS.worker() as worker, pytest.raises(WorkTimeoutError, match=r"longer than 0\.05 s"):
        worker.ask(CHECK, text, limits=limits, max_bytes=4096)
    of_trials = grammars._trials._limits
    assert of_trials.cpu_seconds == grammars._limits.seconds < of_trials.seconds


def test_slow_trials_are_waited_for_by_slow_ones_alone(tokenizer: Any) -> None:
    slow, quick = StructuredAnswer(*HOSTILE["a long computation"]), StructuredAnswer("regex", "q")
    with closing(Grammars({EOS}, WorkLimits(60.0, 2 << 30))) as made:
        hostile = [made.compile(tokenizer, slow, f"hostile {i}") for i in range(2)]
        assert made.compile(tokenizer, quick, "innocent").result(60)
        assert not any(trial.done() for trial in hostile)


def test_a_matcher_that_takes_much_memory() -> None:
    """Rows have one each: what sixty of them take fits a server. A second trial finds no room that
    the first has left."""
    number = '{"type": "integer", "multipleOf": %d}'
    heavy, light = ("[" + ",".join(number % i for i in r) + "]" for r in (range(2500, 2560), [7]))
    limits = WorkLimits(60.0, GRAMMAR_BYTES)
    with WORKERS.worker() as worker:
        for items, is_heavy in ((light, False), (heavy, True), (heavy, True), (light, False)):
            text = grammar_of(StructuredAnswer("json_schema", '{"prefixItems": ' + items + "}"))
            refused = pytest.raises(WorkError, match="takes more than 32 MiB for each answer")
            with refused if is_heavy else nullcontext():
                worker.ask(CHECK, text, limits=limits, max_bytes=4096)


def test_what_is_wrong_is_said_in_a_line(compile_it: Compile) -> None:
    for answer, why in (
        (StructuredAnswer("regex", "(a"), "unclosed group"),
        (StructuredAnswer("regex", r"(a)\1"), "backreferences"),
        (StructuredAnswer("lark", 'start: "a'), "lexer error"),
        (StructuredAnswer("json_schema", '{"type": "frob"}'), "Invalid type: frob"),
        (StructuredAnswer("lark", '%llguidance {}\nstart: "a"'), "%llguidance"),
        (StructuredAnswer("lark", 'start: %json {"x-guidance": {"lenient": true}}'), "x-guidance"),
    ):
        said = compile_it(answer)
        assert why in said
        assert "\n" not in said
        assert "no_forcing" not in said
        assert "whitespace_flexible" not in said
        assert len(said) <= 300


def accepts(tokenizer: Any, answer: StructuredAnswer, text: str) -> bool:
    matcher = LLMatcher(TokenTables([EOS]).of(tokenizer).tokenizer, grammar_of(answer))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("text", "is_one"),
    {
        '{"a":1}': True,
        '{"a": 1, "b": [1, "x", null]}': True,
        "{}": True,
        '{"a":  1}': False,
        '{ "a":1}': False,
        '{"a":1,\n"b":2}': False,
        '{"a":1} ': False,
        "[]": False,
        '"a"': False,
    }.items(),
)
def test_any_json_object_on_one_line(tokenizer: Any, text: str, is_one: bool) -> None:
    assert accepts(tokenizer, StructuredAnswer("json_object"), text) == is_one


@pytest.mark.parametrize(
    "text", ["a/b", "a\\/b", '"x" | "y"', "a\nb", "%llguidance {}", "é😀", "#"]
)
def test_texts_stand_for_themselves(tokenizer: Any, text: str) -> None:
    assert accepts(tokenizer, StructuredAnswer("choice", choices=(text, "other")), text)
    literal = "".join(f"\\x{{{ord(char):x}}}" for char in text)
    assert accepts(tokenizer, StructuredAnswer("regex", literal), text)
    assert accepts(tokenizer, StructuredAnswer("regex", "(a/b|a\\\\/b)|" + literal), text)
    assert not accepts(tokenizer, StructuredAnswer("regex", literal + "z"), text)


def test_special_tokens_are_no_text(tokenizer: Any) -> None:
    matcher = LLMatcher(
        TokenTables([EOS]).of(tokenizer).tokenizer,
        grammar_of(StructuredAnswer("choice", choices=("</s>",))),
    )
    spelled = [ord(char) - 33 for char in "</s>"]
    for token in spelled:
        bits = matcher.compute_bitmask()
        assert not bits[EOS // 8] >> EOS % 8 & 1
        assert matcher.consume_token(token)


def test_added_tokens_of_a_renumbered_tokenizer() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<mood>", special=False)])
    renumber(tokenizer, Renumbering({VOCAB: 300}, frozenset()))
    assert tokenizer("a<mood>", add_special_tokens=False)["input_ids"] == [64, 300]
    assert accepts(tokenizer, StructuredAnswer("choice", choices=("a<mood>",)), "a<mood>")


def test_one_trial_for_all_that_a_caller_wants(grammars: Grammars, tokenizer: Any) -> None:
    answer = StructuredAnswer("regex", "once[0-9]")
    first = grammars.compile(tokenizer, answer, "one")
    second = grammars.compile(copy.copy(tokenizer), answer, "one")
    assert first.result(60) is second.result(60)
    assert grammars.compile(tokenizer, answer, "two").result(0) is first.result()


def test_a_caller_does_not_wait_in_another_s_turn(stopped: Grammars, tokenizer: Any) -> None:
    answer = StructuredAnswer("regex", "of both")
    of_one = stopped.compile(tokenizer, answer, "one")
    assert stopped.compile(tokenizer, answer, "one") is of_one
    assert stopped.compile(tokenizer, answer, "two") is not of_one


@pytest.mark.parametrize("raises", [exception, panic])
def test_a_tokenizer_that_cannot_be_read(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch, raises: Raise
) -> None:
    monkeypatch.setattr(tokens, "LLTokenizer", lambda *args, **kwargs: raises())
    other = make_tokenizer()
    grammars.get_ready(other)  # an engine starts with it
    with pytest.raises(InvalidRequestError, match=r"not supported with this tokenizer: .*injected"):
        grammars.compile(other, StructuredAnswer("regex", "a"), "").result(60)


def test_the_base_s_tokens_are_ready(tokenizer: Any) -> None:
    made = Grammars({EOS}, WorkLimits(1.0, GRAMMAR_BYTES))
    made.get_ready(tokenizer)
    assert made._tables.known(tokenizer)
    made.close()


def test_what_is_kept_has_a_size(
    grammars: Grammars, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_CACHED_BYTES", 1)
    answers = [StructuredAnswer("regex", f"kept{i}") for i in range(3)]
    made = [grammars.compile(tokenizer, answer, "").result(60) for answer in answers]
    table = grammars._tables.of(tokenizer)
    assert [table.grammar(answer) for answer in answers] == [None, None, made[-1]]


def test_a_grammar_is_of_one_tokenizer(grammars: Grammars, tokenizer: Any) -> None:
    answer = StructuredAnswer("regex", "of one")
    first = grammars.compile(tokenizer, answer, "").result(60)
    other = make_tokenizer()
    other.add_tokens([AddedToken("of one", special=False)])
    second = grammars.compile(other, answer, "").result(60)
    assert first.tokenizer.vocab_size < second.tokenizer.vocab_size


def test_rows_share_nothing(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one has filled with the states of its text, another of the same form has not."""
    few = LLParserLimits(max_lexer_states=300)
    monkeypatch.setattr(check, "limits", lambda: few)
    table = TokenTables([EOS]).of(tokenizer).tokenizer
    grammar = Grammar(table, grammar_of(StructuredAnswer("regex", "[ab]*a[ab]{12}")), 0.0)
    full, other = grammar.row({EOS}, False), grammar.row({EOS}, False)
    for row in (full, other):
        row.compute()
    for char in random.Random(1).choices("ab", k=2000):
        full.advance(ord(char) - 33)
        full.compute()
    assert "too many states" in full.error
    for char in "abba":
        other.advance(ord(char) - 33)
        other.compute()
        assert not other.error
    fresh = grammar.row({EOS}, False)
    fresh.compute()
    assert not fresh.error


@pytest.fixture
def stopped() -> Iterator[Grammars]:
    """Grammars whose trials never come to an end."""
    use = WORKERS.use()
    made = Grammars({EOS}, WorkLimits(1.0, GRAMMAR_BYTES))
    made._trials.render = lambda *args: Future()  # type: ignore[method-assign]
    yield made
    made.close()
    use.close()


def test_a_caller_has_so_many_that_wait(stopped: Grammars, tokenizer: Any) -> None:
    answers = [StructuredAnswer("regex", f"wait{i}") for i in range(MAX_WAITING + 1)]
    for answer in answers[:MAX_WAITING]:
        stopped.compile(tokenizer, answer, "one")
    with pytest.raises(CallerLimitError, match="grammars that wait"):
        stopped.compile(tokenizer, answers[-1], "one")
    stopped.compile(tokenizer, answers[-1], "two")
    stopped.compile(tokenizer, answers[0], "one")  # waits already


def test_the_end(tokenizer: Any) -> None:
    made = Grammars({EOS}, WorkLimits(1.0, GRAMMAR_BYTES))
    made.close()
    with pytest.raises(EngineStoppedError):
        made.compile(tokenizer, StructuredAnswer("regex", "a"), "").result(60)


def test_a_model_without_an_end(tokenizer: Any) -> None:
    made = Grammars((), WorkLimits(1.0, GRAMMAR_BYTES))
    with pytest.raises(InvalidRequestError, match="end of sequence"):
        made.compile(tokenizer, StructuredAnswer("regex", "a"), "")
    made.close()
