"""JSONL rows to token ids: every bad row is named, and prompts are those that the server makes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_runtime import ChatMessage, Request, TrainingError
from lora_runtime.requests.prompts.tokenization import encode as served_prompt
from lora_runtime.training import data as data_module
from lora_runtime.training.batches import DataOrder, collate, split
from lora_runtime.training.data import Row, read_rows
from lora_runtime.training.encoding import Encoder, encode_rows

from ...support.models import BOS, EOS, SCRIPTS, VOCAB, make_tokenizer
from ...support.training import chat, write_rows

GOOD = json.dumps({"prompt": "p", "completion": "c"})


def messages(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(make_tokenizer(), frozenset({EOS}), VOCAB)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "p", ', "not a line of JSON"),
        ('["p", "c"]', "not a JSON object"),
        ('{"prompt": "p"}', "field 'completion' is missing"),
        ('{"prompt": "p", "completion": 3}', "field 'completion' must be a string: 3"),
        ('{"prompt": "p", "completion": ""}', "field 'completion' is empty"),
        ('{"prompt": "p", "completion": "c", "label": 1}', "field 'label' is not known"),
        ('{"prompt": "p", "completion": "c", "prompt": "q"}', "field 'prompt' is there twice"),
        (
            '{"prompt": "\\ud800", "completion": "c"}',
            "field 'prompt' has half a surrogate pair at character 1",
        ),
        ('{"messages": {}}', "field 'messages' must be a list"),
        (
            '{"messages": [{"role": "assistant", "content": "a"}]}',
            "field 'messages' must be a list of 2 to",
        ),
        ('{"messages": [{"role": "user", "content": "q"}, 7]}', "messages[1] is not a JSON object"),
        (
            '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant"}]}',
            "messages[1]: field 'content'",
        ),
        (
            '{"messages": [{"role": "user", "content": "q", "name": "x"}, {"role": "assistant", "content": "a"}]}',
            "messages[0]: field 'name' is not known",
        ),
        (
            json.dumps(messages(("user", "q"), ("user", "q"))),
            "messages[1].role must be 'assistant'",
        ),
        (json.dumps(messages(("user", "q"), ("assistant", ""))), "messages[1].content is empty"),
        ("[" * 100_000, "not a line of JSON"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path: Path, line: str, words: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [GOOD, "", line])
    with pytest.raises(TrainingError) as caught:
        read_rows(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert words in str(caught.value)


def test_files_that_are_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(TrainingError, match=r"rows\.jsonl cannot be read: No such file"):
        read_rows(path)
    path.write_bytes(b"\n\n")
    with pytest.raises(TrainingError, match="has no rows"):
        read_rows(path)
    path.write_bytes(f"{GOOD}\n".encode() + b'{"prompt": "\xff"}')
    with pytest.raises(TrainingError, match=r"rows\.jsonl:2: not UTF-8 at byte 13"):
        read_rows(path)
    write_rows(path, [GOOD, GOOD])
    limits = {
        "MAX_LINE_BYTES": r":1: longer than",
        "MAX_ROWS": r":2: more than",
        "MAX_FILE_BYTES": "larger",
    }
    for limit, words in limits.items():
        with monkeypatch.context() as patch:
            patch.setattr(data_module, limit, 1)
            with pytest.raises(TrainingError, match=words):
                read_rows(path)


def test_rows_keep_their_lines_and_the_file_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\n\n".encode() + json.dumps(chat("q", "a")).encode())
    file = read_rows(path)
    assert file.rows == (Row(1, "p", "c"), Row(3, ({"role": "user", "content": "q"},), "a"))
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("text", SCRIPTS)
def test_prompts_are_tokenized_as_the_server_does(encoder: Encoder, text: str) -> None:
    history = [("system", "s"), ("user", text), ("assistant", "no"), ("user", "why?")]
    chat_row = Row(1, tuple({"role": r, "content": c} for r, c in history), text)
    for row, request in (
        (Row(1, text, text), Request(prompt=text)),
        (chat_row, Request(messages=tuple(ChatMessage(r, c) for r, c in history))),
    ):
        example: Any = encoder.encode(
            row, "x"
        )  # its ids are a tuple, which the tokenizer's types do not know
        assert example.ids[: example.start] == served_prompt(request, make_tokenizer(), VOCAB, 4096)
        assert make_tokenizer().decode(example.ids[example.start : -1]) == text
        assert example.ids[-1] == EOS


def test_a_chat_answer_ends_as_the_template_ends_it() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}<s>\n{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant:{% endif %}"
    )
    row = Row(1, ({"role": "user", "content": "q"},), "yes")
    answer = Encoder(tokenizer, frozenset({BOS, EOS}), VOCAB).encode(row, "x")
    assert answer.ids[answer.start :] == (
        *tokenizer("yes")["input_ids"],
        BOS,
    )  # and not the line break behind it
    assert Encoder(tokenizer, frozenset({EOS}), VOCAB).encode(row, "x").ids[-1] == EOS
    # "s" is in the template's ending too
    assert (
        Encoder(tokenizer, frozenset({BOS, EOS}), VOCAB)
        .encode(Row(1, row.prompt, "s"), "x")
        .ids[-1]
        == BOS
    )


def test_what_tokenizers_refuse_is_named(encoder: Encoder) -> None:
    row = Row(1, ({"role": "user", "content": "q"},), "a")
    with pytest.raises(TrainingError, match="f:1: the base's tokenizer has no chat template"):
        Encoder(make_tokenizer(chat=False), frozenset({EOS}), VOCAB).encode(row, "f:1")
    strict = make_tokenizer()
    strict.chat_template = "{{ raise_exception('no systems') }}"
    with pytest.raises(
        TrainingError, match="f:1: the chat template refuses the messages: no systems"
    ):
        Encoder(strict, frozenset({EOS}), VOCAB).encode(row, "f:1")
    with pytest.raises(TrainingError, match="f:1: the prompt has no tokens"):
        encoder.encode(Row(1, "", "c"), "f:1")
    with pytest.raises(
        TrainingError, match=r"f:1: token id \d+ is outside the base's vocabulary of 10"
    ):
        Encoder(make_tokenizer(), frozenset({EOS}), 10).encode(Row(1, "zzz", "c"), "f:1")
    with pytest.raises(TrainingError, match="f:1: the completion has an end token before its end"):
        encoder.encode(Row(1, "p", "c</s>d"), "f:1")
    assert encoder.encode(Row(1, "p", "c</s>"), "f:1").ids[-2:] == (
        make_tokenizer()("c")["input_ids"][0],
        EOS,
    )
    with pytest.raises(TrainingError, match="end token"):
        Encoder(make_tokenizer(), frozenset(), VOCAB)


def test_long_rows(encoder: Encoder) -> None:
    rows = [Row(1, "ab", "cd"), Row(2, "ab", "cdef"), Row(3, "abcdefgh", "i")]
    rows += [Row(i, "abcdef", "g") for i in range(4, 9)]
    path = Path("rows.jsonl")
    with pytest.raises(TrainingError) as caught:
        encode_rows(encoder, rows, path, 6, "refuse")
    assert "longer than 6 tokens: line 2 has 7, line 3 has 10, line 4 has 8" in str(caught.value)
    assert "and 2 more" in str(caught.value)
    cut = encode_rows(encoder, rows, path, 6, "cut")
    assert (cut.cut, cut.skipped) == ((2,), (3, 4, 5, 6, 7, 8))
    assert [len(e.ids) for e in cut.examples] == [5, 6]
    assert cut.examples[1].ids[-1] != EOS
    skipped = encode_rows(encoder, rows, path, 6, "skip")
    assert (skipped.cut, skipped.skipped) == ((), (2, 3, 4, 5, 6, 7, 8))
    with pytest.raises(TrainingError, match="nothing is left"):
        encode_rows(encoder, rows[1:], path, 4, "skip")


def test_every_epoch_is_another_permutation_and_a_function_of_the_step() -> None:
    order = DataOrder(10, 4, seed=3)
    epochs = [[i for step in range(3) for i in order.group(3 * e + step)] for e in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert DataOrder(10, 4, seed=3).group(7) == epochs[2][4:8]
    assert DataOrder(10, 4, seed=4).group(0) != order.group(0)


@pytest.mark.parametrize(
    ("count", "fraction", "held"),
    [(20, 0.1, 2), (20, 0.0, 0), (5, 0.1, 1), (2, 0.9, 1), (1, 0.5, 0)],
)
def test_the_split_leaves_rows_on_both_sides(count: int, fraction: float, held: int) -> None:
    kept, out = split(count, fraction, seed=0)
    assert len(out) == held
    assert sorted(kept + out) == list(range(count))
    assert split(count, fraction, seed=0) == (kept, out)


def test_labels_count_the_completion_only(encoder: Encoder) -> None:
    examples = [encoder.encode(Row(1, "ab", "c"), "x"), encoder.encode(Row(2, "abcd", "ef"), "x")]
    batch = collate(examples, torch.device("cpu"))
    assert batch["attention_mask"].sum(1).tolist() == [4, 7]
    assert (batch["labels"] != -100).sum(1).tolist() == [2, 3]
    first = batch["labels"][0].tolist()
    assert first[:2] == [-100, -100]
    assert first[2:4] == batch["input_ids"][0, 2:4].tolist()
    assert first[4:] == [-100] * 3
