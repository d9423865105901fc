"""Stop strings that are or hold special tokens, and special tokens that are shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from lora_runtime import Engine, EngineConfig, FinishReason, Request, SamplingParams
from lora_runtime.requests.text.answer_text import AnswerText
from lora_runtime.requests.text.detokenize import IncrementalDetokenizer
from lora_runtime.requests.text.stop_matcher import StopMatcher

from ....support.adapters import save_adapter
from ....support.models import BOS, EOS, make_tokenizer
from ..test_streaming import Parrot
from .test_text_properties import TOKENIZERS

TOKENIZER = make_tokenizer()
pushes = st.lists(st.tuples(st.text("ab<", max_size=4), st.booleans()), max_size=12)
stop_lists = st.lists(st.text("ab<", min_size=1, max_size=6), min_size=1, max_size=4)


def _expected(pieces: list[tuple[str, bool]], stops: list[str]) -> tuple[str, bool]:
    """Letter by letter, in both texts: what is delivered, and whether a stop string is complete."""
    shown, places, delivered = "", [0], ""
    for text, hidden in pieces:
        for letter in text:
            shown += letter
            delivered += "" if hidden else letter
            places.append(len(delivered))
            starts = [places[len(shown) - len(s)] for s in stops if shown.endswith(s)]
            if not hidden:
                starts += [len(delivered) - len(s) for s in stops if delivered.endswith(s)]
            if starts:
                return delivered[: min(starts)], True
    return delivered, False


@given(pushes, stop_lists)
def test_both_texts_are_looked_at(pieces: list[tuple[str, bool]], stops: list[str]) -> None:
    matcher, out = StopMatcher(stops), ""
    final = _expected(pieces, stops)
    for text, hidden in pieces:
        safe, stopped = matcher.push_hidden(text) if hidden else matcher.push(text)
        out += safe
        assert final[0].startswith(out)
        if stopped:
            assert (out, True) == final
            return
        assert len(matcher.held) < max(map(len, stops))
    assert (out + matcher.flush(), False) == final


def test_what_is_kept_does_not_grow() -> None:
    """Special tokens without end, inside what may become a stop string and outside."""
    matcher = StopMatcher(["<e>" * 300, "x"])
    for _ in range(3000):
        matcher.push_hidden("<e>") if matcher._shown.state < 890 else matcher.push("a")
        assert len(matcher._hidden) <= 300
        assert len(matcher.held) < 900
    matcher.push("aa")
    assert not matcher._hidden
    assert matcher._delivered is None  # one text to read again


@pytest.fixture(scope="module")
def parrot(tiny_base: Path) -> Iterator[Parrot]:
    with Engine(tiny_base, EngineConfig(dtype="float32", kv_cache_bytes=8 << 20)) as engine:
        yield Parrot(engine, "")


def say(parrot: Parrot, text: str) -> int:
    """Make the engine say `text`; gives the number of its tokens."""
    parrot.ids = TOKENIZER(text)["input_ids"]
    return len(parrot.ids)


CASES = [
    # (what is said, stop string, text delivered where special tokens are shown)
    ("one</s>two", "</s>", "one"),
    ("one</s>two", "one</s>", ""),
    ("one</s>two", "e</s>t", "on"),
    ("one</s>two", "/s", "one<"),
    ("one</s>two", ">two", "one</s"),
    ("one</s></s>two", "</s></s>", "one"),
    ("one</s>two</s>", "two</s>", "one</s>"),
    ("a<s>b</s>c", "b</s>", "a<s>"),
    ("one</s>two", "onetwo", ""),
    ("one</s>two", "</s>n", "one</s>two"),
]


@pytest.mark.parametrize(("said", "stop", "kept"), CASES)
@pytest.mark.parametrize("skip", [True, False])
def test_stop_strings_of_special_tokens(
    parrot: Parrot, said: str, stop: str, kept: str, skip: bool
) -> None:
    if stop == "onetwo" and not skip:
        kept = said  # there is no such text
    expected = FinishReason.LENGTH if kept == said else FinishReason.STOP
    if skip:
        for special in ("</s>", "<s>", "</s", "<"):
            kept = kept.replace(special, "") if special in said else kept
    sampling = SamplingParams(
        max_new_tokens=say(parrot, said),
        stop=(stop,),
        ignore_eos=True,
        skip_special_tokens=skip,
        n=2,
    )
    request = Request(prompt="x", sampling=sampling)
    done = parrot.engine.generate(request)
    assert [c.text for c in done.choices] == [kept] * 2
    assert {c.finish_reason for c in done.choices} == {expected}
    by = stop if expected is FinishReason.STOP else None
    assert {c.stopped_by for c in done.choices} == {by}
    events = [e for e in parrot.engine.stream(request) if not e.index]
    assert "".join(e.text for e in events) == kept
    assert (events[-1].finish_reason, events[-1].stopped_by) == (expected, by)


@pytest.mark.parametrize(
    ("stop", "kept", "reason"),
    [
        (("</s>",), "one", FinishReason.STOP),
        (("ne</s>",), "o", FinishReason.STOP),
        (("e<",), "on", FinishReason.STOP),
        (("<",), "one", FinishReason.EOS),
        (("</s>t",), "one", FinishReason.EOS),
        (("/s", "zz</s>"), "one", FinishReason.EOS),
        (("<", "ne</s>"), "o", FinishReason.STOP),
        (("s>", "ne<", "e</"), "o", FinishReason.STOP),
        ((), "one", FinishReason.EOS),
    ],
)
@pytest.mark.parametrize("skip", [True, False])
def test_the_end_of_sequence_may_be_part_of_a_stop_string(
    parrot: Parrot, stop: tuple[str, ...], kept: str, reason: FinishReason, skip: bool
) -> None:
    """That it has one within does not make it one."""
    say(parrot, "one</s>two")
    sampling = SamplingParams(max_new_tokens=9, stop=stop, skip_special_tokens=skip)
    done = parrot.engine.generate(Request(prompt="x", sampling=sampling)).choices[0]
    assert (done.text, done.finish_reason, len(done.token_ids)) == (kept, reason, 4)
    if reason is FinishReason.STOP:
        assert done.stopped_by in stop
        assert "one</s>".startswith(f"{kept}{done.stopped_by}")
    else:
        assert done.stopped_by is None


def test_a_stop_token_completes_a_stop_string(parrot: Parrot) -> None:
    say(parrot, "a<s>b")
    sampling = SamplingParams(max_new_tokens=3, stop=("a<s>",), stop_token_ids=(BOS,))
    done = parrot.engine.generate(Request(prompt="x", sampling=sampling)).choices[0]
    assert (done.text, done.finish_reason, done.stopped_by) == ("", FinishReason.STOP, "a<s>")
    sampling = SamplingParams(max_new_tokens=3, stop=("b",), stop_token_ids=(BOS,))
    done = parrot.engine.generate(Request(prompt="x", sampling=sampling)).choices[0]
    assert (done.text, done.finish_reason, done.stopped_by) == ("a", FinishReason.STOP, BOS)


def test_special_tokens_are_shown(parrot: Parrot) -> None:
    """But for the one that ends the answer."""
    say(parrot, "a<s>b</s>c")
    shown = SamplingParams(max_new_tokens=5, ignore_eos=True, skip_special_tokens=False)
    assert parrot.engine.generate(Request(prompt="x", sampling=shown)).text == "a<s>b</s>c"
    ended = SamplingParams(max_new_tokens=5, skip_special_tokens=False)
    assert parrot.engine.generate(Request(prompt="x", sampling=ended)).text == "a<s>b"
    stopped = SamplingParams(max_new_tokens=5, skip_special_tokens=False, stop_token_ids=(BOS,))
    assert parrot.engine.generate(Request(prompt="x", sampling=stopped)).text == "a"


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
def test_what_is_shown_is_what_transformers_shows(kind: str, data: st.DataObject) -> None:
    tokenizer: Any = TOKENIZERS[kind]
    special, texts = ([BOS, EOS], "aé 🎉") if kind == "bytes" else ([0, 1, 2], "")
    whole = [tokenizer(c)["input_ids"] for c in texts] or [[3 + 256 + i] for i in range(8)]
    one = st.one_of(st.sampled_from(whole), st.sampled_from([[t] for t in special]))
    ids = [t for group in data.draw(st.lists(one, max_size=20)) for t in group]
    context = [t for group in data.draw(st.lists(one, max_size=4)) for t in group]
    detokenizer = IncrementalDetokenizer(tokenizer, context, skip_special_tokens=False)
    text = "".join([detokenizer.push(t) for t in ids] + [detokenizer.flush()])
    assert tokenizer.decode(context) + text == tokenizer.decode(context + ids)


def test_text_before_half_a_character_is_there_at_once() -> None:
    """A token may end in the middle of one: what is before it comes before a special token's text."""
    raw = Tokenizer(models.BPE({"a": 0, "bð": 1, "Ł": 2, "ĺ": 3, "Ģ": 4, "</s>": 5}, []))
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")
    answer = AnswerText(IncrementalDetokenizer(tokenizer), [])
    assert [answer.push(t)[0] for t in (0, 1, 2, 5, 3, 4)] == ["a", "b", "", "", "", "\U0001f600"]
    answer = AnswerText(IncrementalDetokenizer(tokenizer), ["</s>"])
    assert [answer.push(t) for t in (0, 1, 5)] == [("a", False), ("b", False), ("", True)]


def test_special_tokens_of_an_adapters_own(parrot: Parrot, tiny_base: Path, tmp_path: Path) -> None:
    """They are special, and stop strings, for its requests alone."""
    directory = save_adapter(tiny_base, tmp_path / "own", added_tokens=2)
    own = make_tokenizer()
    own.add_tokens(["<turn>"], special_tokens=True)
    own.add_tokens(["<word>"])
    own.save_pretrained(directory)
    parrot.engine.load_adapter(directory, "own")
    parrot.ids = own("a<turn><word></s>b<turn>")["input_ids"]
    count = len(parrot.ids)
    for stop, kept in {(): "a<word>b", ("<turn>",): "a", ("word></s>b",): "a<"}.items():
        sampling = SamplingParams(max_new_tokens=count, stop=stop, ignore_eos=True)
        done = parrot.engine.generate(Request(prompt="x", adapter_id="own", sampling=sampling))
        assert done.text == kept
    shown = SamplingParams(max_new_tokens=count, ignore_eos=True, skip_special_tokens=False)
    done = parrot.engine.generate(Request(prompt="x", adapter_id="own", sampling=shown))
    assert done.text == "a<turn><word></s>b<turn>"
