"""Tokens over HTTP, in vLLM's forms, by the tokenizer that the adapter wants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from ....support.adapters import save_adapter
from ....support.http_front import HttpHarness, http_running
from ....support.models import VOCAB, make_tokenizer
from ....support.servers import make_settings
from ....support.tokens import write_tokens


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(
    tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[HttpHarness]:
    """`own` has a tokenizer with a token more, `plain` the base's; `user` may use `plain` alone."""
    root = tmp_path_factory.mktemp("own")
    own = save_adapter(tiny_base, root / "own", added_tokens=1)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(own)
    adapters = {"own": own, "plain": save_adapter(tiny_base, root / "plain")}
    tokens = write_tokens(
        root / "tokens.yaml", root={"adapters": ["*"]}, user={"adapters": ["plain"]}
    )
    settings = make_settings(tiny_base, adapters, auth_file=tokens, served_model_names=["tiny"])
    async with http_running(settings) as harness:
        yield harness


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_text_as_the_adapter_reads_it(front: HttpHarness) -> None:
    body: dict[str, Any] = {"prompt": "a<tool>", "return_token_strs": True}
    told = (await front.post("/tokenize", body | {"model": "own"}, "root")).json()
    assert told == {
        "count": 2,
        "max_model_len": front.server.app.engine.max_context,
        "tokens": [told["tokens"][0], VOCAB],
        "token_strs": ["a", "<tool>"],
    }
    for model in ("plain", "tiny", ""):
        plain = (await front.post("/tokenize", body | {"model": model}, "root")).json()
        assert (plain["count"], plain["token_strs"]) == (7, list("a<tool>"))
    back = await front.post("/detokenize", {"tokens": told["tokens"], "model": "own"}, "root")
    assert back.json() == {"prompt": "a<tool>"}
    refused = await front.post("/detokenize", {"tokens": told["tokens"]}, "root")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tokens")


async def test_a_conversation_as_its_template_has_it(front: HttpHarness) -> None:
    messages = [{"role": "user", "content": "hi"}]
    told = (await front.post("/tokenize", {"messages": messages}, "root")).json()
    back = (await front.post("/detokenize", {"tokens": told["tokens"]}, "root")).json()
    assert (told["token_strs"], back) == (None, {"prompt": "<user>hi\n<bot>"})
    begun = {
        "messages": [*messages, {"role": "assistant", "content": "So"}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    }
    told = (await front.post("/tokenize", begun, "root")).json()
    back = (await front.post("/detokenize", {"tokens": told["tokens"]}, "root")).json()
    assert back == {"prompt": "<user>hi\n<assistant>So"}


async def test_tokens_that_a_tokenizer_adds(front: HttpHarness) -> None:
    tokenizer = front.server.app.engine.base.tokenizer
    own = type(tokenizer).__call__

    def adding(self: Any, text: str, **options: Any) -> Any:
        found = own(self, text, **options)
        if options.get("add_special_tokens", True):
            found["input_ids"] = [self.bos_token_id, *found["input_ids"]]
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(tokenizer), "__call__", adding)
        counts = [
            (await front.post("/tokenize", {"prompt": "hi", **more}, "root")).json()["count"]
            for more in ({}, {"add_special_tokens": True}, {"add_special_tokens": False})
        ]
    assert counts == [3, 3, 2]


WRONG: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "nothing": ("/tokenize", {}, 400, "prompt"),
    "several": ("/tokenize", {"prompt": ["a", "b"]}, 400, "prompt"),
    "kind": ("/tokenize", {"prompt": "a", "return_token_strs": "yes"}, 400, "return_token_strs"),
    "template": ("/tokenize", {"messages": [], "chat_template": "x"}, 400, "chat_template"),
    "ids": ("/detokenize", {"tokens": [1, True]}, 400, "tokens"),
    "negative": ("/detokenize", {"tokens": [-1]}, 400, "tokens"),
    "too-many": ("/detokenize", {"tokens": [1] * 9000}, 400, "tokens"),
    "unknown": ("/detokenize", {"tokens": [1], "model": "gone"}, 404, "model"),
    "unknown-text": ("/tokenize", {"prompt": "a", "model": "gone"}, 404, "model"),
}


@pytest.mark.parametrize(("path", "body", "status", "param"), WRONG.values(), ids=WRONG)
async def test_what_is_refused(
    front: HttpHarness, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    answer = await front.post(path, body, "root")
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


async def test_scopes(front: HttpHarness) -> None:
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
        assert (await front.post(path, body | {"model": "plain"}, "user")).status_code == 200
        assert (await front.post(path, body | {"model": "own"}, "user")).status_code == 403
        assert (await front.post(path, body, "user")).status_code == 403
        assert (await front.post(path, body)).status_code == 401
    assert (await front.post("/detokenize", {"tokens": []}, "user")).status_code == 403
    assert (await front.post("/detokenize", {"tokens": []}, "root")).json() == {"prompt": ""}


async def test_long_names_are_not_looked_at_nor_logged(front: HttpHarness) -> None:
    with capture_logs() as lines:
        answer = await front.post("/tokenize", {"prompt": "a", "model": "m" * 9000}, "user")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
    assert len(str(lines)) < 1000


async def test_nothing_is_left_behind(front: HttpHarness) -> None:
    await front.post("/tokenize", {"prompt": "a", "model": "own"}, "root")
    stats = await front.server.idle_stats()
    assert (stats.leases, stats.waiting, stats.running) == (0, 0, 0)
