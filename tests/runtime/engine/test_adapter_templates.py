"""Chat templates that came with adapters: what they cost is the request's alone."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from lora_runtime import (
    AdapterLimitError,
    ChatMessage,
    Engine,
    EngineStoppedError,
    InvalidRequestError,
    Request,
    RequestTimeoutError,
    SamplingParams,
)
from lora_runtime.adapters.peft.tokenizer import ends
from lora_runtime.foreign.process import WORKERS
from lora_runtime.foreign.template_queue import MAX_WAITING, TemplateQueue

from ...support.adapters import save_adapter

ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
OWN = "{{ eos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
SHORT = SamplingParams(max_new_tokens=2, ignore_eos=True)


def chat(adapter_id: str, content: str = "Hi", **fields: float) -> Request:
    messages = (ChatMessage("user", content),)
    return Request(messages=messages, adapter_id=adapter_id, sampling=SHORT, **fields)  # type: ignore[arg-type]


@pytest.fixture(scope="module", autouse=True)
def _workers() -> Iterator[None]:
    """Their program, for all engines of this module; loads try its templates for a moment only."""
    use = WORKERS.use()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ends, "_SECONDS", 0.3)
        yield
    use.close()


@pytest.fixture
def add(tiny_base: Path, tmp_path: Path) -> Callable[..., None]:
    def add(engine: Engine, name: str, template: str, **options: int) -> None:
        directory = save_adapter(tiny_base, tmp_path / name, **options)  # type: ignore[arg-type]
        (directory / "chat_template.jinja").write_text(template)
        engine.load_adapter(directory, name)

    return add


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine(chat_template_timeout_s=60.0)


def test_it_is_tokenized_as_transformers_does(
    engine: Engine, add: Callable[..., None], tiny_base: Path
) -> None:
    add(engine, "own", OWN)
    theirs = AutoTokenizer.from_pretrained(tiny_base)
    expected = theirs.apply_chat_template(
        [{"role": "user", "content": "Grüße </s>"}],
        chat_template=OWN,
        add_generation_prompt=True,
        return_dict=False,
    )
    for _ in range(2):
        handle = engine.submit(chat("own", "Grüße </s>"))
        assert list(handle.prompt_token_ids) == expected
        handle.result()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (ENDLESS, r"the chat template of adapter 'bad' took longer than 0\.3 s"),
        ("{% set x = 7 ** 60000000 %}", "the chat template of adapter 'bad' took longer than"),
        ("{% set x = 'a' * 3000000000 %}", "of adapter 'bad' needs more memory"),
        ("{{ 'a ' * 800000 }}", "of adapter 'bad' makes a text of 1600000 characters"),
        ("{{ 1 // 0 }}", "of adapter 'bad' refuses them: integer division"),
    ],
)
def test_a_hostile_one_ends_its_request(
    make_engine: Callable[..., Engine], add: Callable[..., None], template: str, message: str
) -> None:
    engine = make_engine(chat_template_timeout_s=0.3, adapter_worker_bytes=128 << 20)
    add(engine, "bad", template)
    add(engine, "own", OWN)
    running = engine.submit(
        Request(prompt="x", sampling=SamplingParams(max_new_tokens=20, ignore_eos=True))
    )
    with pytest.raises(InvalidRequestError, match=message) as refusal:
        engine.generate(chat("bad"))
    assert [v.field for v in refusal.value.violations] == ["messages"]
    assert engine.generate(chat("own")).choices
    assert running.result().choices
    assert engine.stats().leases == 0


def test_one_that_runs_holds_nobody_up(engine: Engine, add: Callable[..., None]) -> None:
    """Neither a thread of the caller nor another adapter; and its request can be given up."""
    add(engine, "bad", ENDLESS)
    add(engine, "own", OWN)
    endless: list[Future[None]] = []
    with pytest.raises(AdapterLimitError, match="'bad' has reached its limit of 64 chats"):
        prepare_all(engine, endless)
    assert len(endless) >= MAX_WAITING
    assert engine.generate(chat("own")).choices
    assert engine.generate(Request(prompt="x", adapter_id="bad", sampling=SHORT)).choices
    assert not any(future.done() for future in endless)
    assert all(future.cancel() for future in endless)
    with pytest.raises(CancelledError):
        endless[0].result()
    with pytest.raises(RequestTimeoutError, match="its chat rendered"):
        engine.generate(chat("bad", timeout_s=0.1))
    assert engine.stats().leases == 0


def prepare_all(engine: Engine, futures: list[Future[None]]) -> None:
    while True:
        futures.append(engine.prepare(chat("bad")))


def test_the_end_does_not_wait_for_it(engine: Engine, add: Callable[..., None]) -> None:
    add(engine, "bad", ENDLESS)
    prepared = engine.prepare(chat("bad"))
    errors: list[BaseException] = []

    def submit() -> None:
        try:
            engine.submit(chat("bad"))
        except BaseException as error:
            errors.append(error)

    submitting = threading.Thread(target=submit)
    submitting.start()
    engine.shutdown(drain_s=60)
    submitting.join(30)
    assert [type(error) for error in errors] == [EngineStoppedError]
    with pytest.raises(EngineStoppedError):
        prepared.result(30)


def test_a_cold_adapter_s_is_rendered_once_it_is_read(
    make_engine: Callable[..., Engine], add: Callable[..., None]
) -> None:
    first = make_engine()
    add(first, "own", OWN)
    second = make_engine()
    for registration in first.registrations():
        second.register(registration)
    request = chat("own")
    second.prepare(request).result(60)
    handle = second.submit(request)
    assert handle.prompt_token_ids == first.submit(chat("own")).prompt_token_ids
    handle.result()


def test_what_was_prepared_is_not_rendered_again(
    engine: Engine, add: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(engine, "own", OWN)
    request = chat("own")
    engine.prepare(request).result(60)
    with monkeypatch.context() as patch:
        patch.setattr(TemplateQueue, "render", lambda *args: pytest.fail("a second time"))
        engine.submit(dataclasses.replace(request, timeout_s=60.0)).result()
    # Texts of callers that went away make room.
    left = [chat("own", f"{i}" + "x" * 400) for i in range(120)]
    for request in left:
        engine.prepare(request).result(60)
    for request in (left[0], left[-1]):
        engine.submit(dataclasses.replace(request, timeout_s=60.0)).result()


def test_chats_are_limited_before_they_are_rendered(
    engine: Engine, add: Callable[..., None]
) -> None:
    add(engine, "own", OWN)
    with pytest.raises(InvalidRequestError, match="messages"):
        engine.submit(chat("own", "x" * (engine.max_context * 64 + 1)))
