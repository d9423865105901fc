"""Build of the sequences that the scheduler runs, from a request."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Any

from ..adapters.store.version import AdapterVersion
from ..api.requests import AdapterUse, Request
from ..base_model import BaseModel
from ..errors import InvalidRequestError
from ..requests.detokenize import IncrementalDetokenizer
from ..requests.handle import RequestHandle
from ..requests.lengths import TextLimit, longest_token
from ..requests.sequence import LiveRequest, Sequence, SequenceAdapter
from ..requests.tokenization import encode


class RequestBuilder:
    """Builder of sequences; encodes prompts with the tokenizer that the request's adapters want."""

    def __init__(
        self, base: BaseModel, max_context: int, on_cancel: Callable[[RequestHandle], None]
    ) -> None:
        self._base, self._max_context, self._on_cancel = base, max_context, on_cancel
        self._text_limit = TextLimit(max_context, longest_token(base.tokenizer))

    def build(
        self, request: Request, versions: list[AdapterVersion], arrived: float
    ) -> LiveRequest:
        """Build a request's sequences. Raises InvalidRequestError.

        `versions`: one for each of the request's uses, read before; `arrived` on the monotonic
        clock.
        """
        tokenizer, vocab_size, eos_ids = self._vocabulary(versions)
        prompt = encode(request, tokenizer, vocab_size, self._max_context, limit=self._text_limit)
        pairs = list(zip(request.uses, versions, strict=True))
        adapters = tuple(
            SequenceAdapter(v, use.weight, _activation_start(use.adapter_id, v, prompt))
            for use, v in pairs
        )
        handle = RequestHandle(
            request,
            request.request_id or uuid.uuid4().hex,
            prompt,
            tuple(AdapterUse(use.adapter_id, v.version, use.weight) for use, v in pairs),
            self._on_cancel,
        )
        params = request.sampling
        max_tokens = min(params.max_new_tokens, self._max_context - len(prompt))
        tenant = request.uses[0].adapter_id if request.uses else ""
        sequences = [
            Sequence(
                handle,
                i,
                prompt,
                params,
                IncrementalDetokenizer(tokenizer, prompt),
                max_tokens,
                adapters=adapters,
                tenant=tenant,
                priority=request.priority,
                eos_ids=eos_ids,
                arrived=arrived,
            )
            for i in range(params.n)
        ]
        return LiveRequest(handle, versions, sequences)

    def _vocabulary(self, versions: Seq[AdapterVersion]) -> tuple[Any, int, frozenset[int]]:
        """Tokenizer, number of token ids, and the ids that end a sequence."""
        base = self._base
        own = [
            v.details
            for v in versions
            if v.details and (v.details.tokenizer or v.details.vocab_size)
        ]
        if not own:
            return base.tokenizer, base.vocab_size, base.eos_token_ids
        if len(versions) > 1:
            raise InvalidRequestError.of(
                "adapters",
                "an adapter with a tokenizer or tokens of its own can only be used alone",
            )
        tokenizer = own[0].tokenizer or base.tokenizer
        eos = tokenizer.eos_token_id
        return (
            tokenizer,
            own[0].vocab_size or base.vocab_size,
            base.eos_token_ids if eos is None else base.eos_token_ids | {eos},
        )


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
