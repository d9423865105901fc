"""Build of the sequences that the scheduler runs, from a request."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from collections.abc import Sequence as Seq
from concurrent.futures import Future
from typing import Any

from ..adapters.store.version import AdapterVersion
from ..api.answers import AdapterUse
from ..api.requests import Request
from ..base_model import BaseModel
from ..errors import InvalidRequestError
from ..grammars.compiler import Grammar
from ..kv_cache import prefix_salt
from ..requests.handle import RequestHandle
from ..requests.prompts.prompt_tokens import PromptTokens
from ..requests.prompts.tokenization import encode, render_chat
from ..requests.sequence import LiveRequest, Sequence, SequenceAdapter
from ..requests.text.detokenize import IncrementalDetokenizer
from ..requests.text.token_text import TokenBytes
from ..requests.token_bias import token_bias
from ..requests.unread import Backlogs
from .language import Language
from .messages import forced_form


class RequestBuilder:
    """Builder of sequences; encodes prompts with the tokenizer that the request's adapters want."""

    def __init__(
        self,
        base: BaseModel,
        max_context: int,
        language: Language,
        on_cancel: Callable[[RequestHandle], None],
    ) -> None:
        self._base, self._max_context, self._language = base, max_context, language
        self._backlogs, self._on_cancel = Backlogs(), on_cancel

    def compile(self, request: Request, versions: Seq[AdapterVersion]) -> Future[Grammar]:
        """Grammar of the request's structured answer, or calls. Raises as Grammars.compile."""
        tokenizer, _ = self._vocabulary(versions)
        form = request.sampling.structured or forced_form(request)
        return self._language.grammars.compile(tokenizer, form, request.caller)

    def build(
        self, request: Request, versions: list[AdapterVersion], arrived: float
    ) -> LiveRequest:
        """Build a request's sequences. Raises InvalidRequestError.

        `versions`: one for each of the request's uses, read before; `arrived` on the monotonic
        clock.
        """
        tokenizer, vocab_size = self._vocabulary(versions)
        chat = self._chat(request, versions, tokenizer)
        prompt = encode(
            request, tokenizer, vocab_size, self._max_context, limit=self._language.limit, chat=chat
        )
        pairs = list(zip(request.uses, versions, strict=True))
        adapters = tuple(
            SequenceAdapter(v, use.weight, _activation_start(use.adapter_id, v, prompt))
            for use, v in pairs
        )
        params = request.sampling
        stop_ids = frozenset(params.stop_token_ids)
        ends = self._ends(request, versions)
        handle = RequestHandle(
            request,
            request.request_id or uuid.uuid4().hex,
            prompt,
            tuple(AdapterUse(use.adapter_id, v.version, use.weight) for use, v in pairs),
            self._on_cancel,
            self._backlogs.open(),
            TokenBytes(tokenizer),
            self._language.parsers.of(
                request,
                tokenizer,
                prompt,
                request.prompt if chat is None else chat,
                stop_ids if params.ignore_eos else stop_ids | ends,
            ),
        )
        max_tokens = min(params.max_new_tokens, self._max_context - len(prompt))
        bias = token_bias(params, ends | stop_ids, vocab_size)
        grammar = None
        if request.is_constrained:
            grammar = self.compile(request, versions).result()
        tenant = request.uses[0].adapter_id if request.uses else ""
        salt = prefix_salt(request.caller, request.cache_salt)
        sequences = [
            Sequence(
                handle,
                i,
                prompt,
                params,
                IncrementalDetokenizer(tokenizer, prompt, params.skip_special_tokens),
                max_tokens,
                adapters=adapters,
                tenant=tenant,
                caller=request.caller,
                salt=salt,
                priority=request.priority,
                eos_ids=ends,
                stop_ids=stop_ids,
                vocab_limit=vocab_size if vocab_size < self._base.vocab_size else None,
                bias=bias,
                grammar=None
                if grammar is None
                else grammar.row(ends, params.ignore_eos, request.caller or tenant),
                arrived=arrived,
            )
            for i in range(params.n)
        ]
        return LiveRequest(handle, versions, sequences)

    def tokens(
        self, request: Request, versions: list[AdapterVersion], add_special_tokens: bool
    ) -> PromptTokens:
        """Tokenize a request's prompt alone. Raises InvalidRequestError."""
        tokenizer, vocab_size = self._vocabulary(versions)
        ids = encode(
            request,
            tokenizer,
            vocab_size,
            self._max_context,
            limit=self._language.limit,
            chat=self._chat(request, versions, tokenizer),
            add_special_tokens=add_special_tokens,
        )
        return PromptTokens(ids, tokenizer)

    def _chat(self, request: Request, versions: list[AdapterVersion], tokenizer: Any) -> str | None:
        """Text of a conversation; None if the request is none."""
        if request.messages is None:
            return None
        chats = self._language.chats
        if len(versions) == 1 and chats.concern(request, versions[0]):
            return chats.text(request, versions[0])
        self._language.limit.check_messages(request.messages)
        return render_chat(request, tokenizer)

    def _vocabulary(self, versions: Seq[AdapterVersion]) -> tuple[Any, int]:
        """Tokenizer, and number of token ids."""
        base = self._base
        details = [v.details for v in versions if v.details]
        own = [d for d in details if d.tokenizer or d.vocab_size > base.vocab_size]
        # A token that one of them does not have, they do not have together.
        vocab_size = min((d.vocab_size for d in details if d.vocab_size), default=base.vocab_size)
        if not own:
            return base.tokenizer, vocab_size
        if len(versions) > 1:
            raise InvalidRequestError.of(
                "adapters",
                "an adapter with a tokenizer or tokens of its own can only be used alone",
            )
        return own[0].tokenizer or base.tokenizer, vocab_size

    def _ends(self, request: Request, versions: Seq[AdapterVersion]) -> frozenset[int]:
        """Ids that end a sequence: the base's, those of every adapter, and a chat's ends of turn."""
        details = [v.details for v in versions if v.details]
        ids = self._base.eos_token_ids.union(*(one.eos_ids for one in details))
        if request.messages is None:
            return ids
        own = [one.turn_ends for one in details if one.tokenizer]
        return ids.union(*(own or [self._language.turn_ends]))


def _activation_start(adapter_id: str, version: AdapterVersion, prompt: tuple[int, ...]) -> int:
    assert version.details is not None  # AdapterStore.prepare has seen to that
    start = version.details.activation_start(prompt)
    if start is None:
        raise InvalidRequestError.of(
            "prompt",
            f"lacks the invocation tokens {list(version.details.invocation_tokens)} of the activated LoRA "
            f"{adapter_id!r}: the base model alone would answer",
        )
    return start
