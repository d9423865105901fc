"""Steps of a row that nobody asked for: whether the base runs, and whether it does with an adapter."""

from __future__ import annotations

import logging
from typing import Any

from ..adapters.store.version import AdapterVersion
from ..api.requests import Request, SamplingParams
from ..backends.backend import ModelRunner
from ..base_model import BaseModel
from ..errors import EngineFailedError
from ..requests.handle import RequestHandle
from ..requests.sequence import Sequence, SequenceAdapter
from ..requests.text.detokenize import IncrementalDetokenizer
from ..sampling.sampling import sample
from ..scheduling.batch import BatchPlanner, ScheduledRow
from ..scheduling.block_allocator import BlockAllocator

log = logging.getLogger(__name__)
_TOKEN = 0


class Probe:
    """Runs rows through a step's plan, forward and sampling, in a KV block of a sequence that is to
    end.

    The rows have nothing of that sequence: what it was given must not count against an adapter.
    """

    def __init__(self, base: BaseModel, runner: ModelRunner, allocator: BlockAllocator) -> None:
        self._base, self._runner, self._allocator = base, runner, allocator

    def check_base(self, seq: Sequence) -> None:
        """Run the base alone. Raises what that raises."""
        self._run(seq)

    def fault_of(self, version: AdapterVersion, seq: Sequence) -> BaseException | None:
        """What a row with the adapter raises; None if it runs.

        Raises what the base alone raises then: it is not the adapter's fault.
        """
        try:
            self._run(seq, SequenceAdapter(version))
        except EngineFailedError:
            raise
        except BaseException as error:
            log.exception("no step runs with adapter %s", version.adapter_id)
            fault = error.with_traceback(None)
        else:
            return None
        self.check_base(seq)
        return fault

    def _run(self, seq: Sequence, *adapters: SequenceAdapter) -> None:
        """One row as in decode, and several as in prefill."""
        own = seq.blocks[seq.num_published :]  # no one else reads these
        block = own[0] if own else self._allocator.allocate()
        if block is None:
            return
        try:
            for count in (1, min(self._allocator.block_size, self._base.max_context)):
                probe = _sequence(count, adapters, self._base.tokenizer)
                probe.blocks = [block]
                batch = BatchPlanner(self._allocator.block_size).plan([ScheduledRow(probe, count)])
                sample(self._runner.forward(batch), batch.sampling, self._base.sample_rows)
        finally:
            if not own:
                self._allocator.release(block)


def _sequence(count: int, adapters: tuple[SequenceAdapter, ...], tokenizer: Any) -> Sequence:
    prompt, params = (_TOKEN,) * count, SamplingParams(max_new_tokens=1)
    request = Request(token_ids=prompt, sampling=params, request_id="probe")
    handle = RequestHandle(request, "probe", prompt, (), lambda handle: None)
    return Sequence(
        handle, 0, prompt, params, IncrementalDetokenizer(tokenizer, prompt), 1, adapters=adapters
    )
