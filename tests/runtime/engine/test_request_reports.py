"""What observers hear of a request besides its counts: what it brought along, why it ended, what it waited for."""

from __future__ import annotations

from lora_runtime import (
    Engine,
    EngineObserver,
    FinishReason,
    Request,
    RequestRecord,
    SamplingParams,
)

SHORT = SamplingParams(max_new_tokens=3, n=2, temperature=1.0, ignore_eos=True)


class Ear(EngineObserver):
    def __init__(self) -> None:
        self.records: dict[object, RequestRecord] = {}
        self.reads: list[tuple[object, float]] = []

    def on_request_finished(self, record: RequestRecord) -> None:
        self.records[record.trace] = record

    def on_adapters_read(self, request: Request, seconds: float) -> None:
        self.reads.append((request.trace, seconds))


def test_a_record_has_what_the_request_brought_along_and_why_it_ended(engine: Engine) -> None:
    ear = Ear()
    engine.add_observer(ear)
    mine, cut = object(), object()
    done = engine.submit(Request(prompt="hi", sampling=SHORT, trace=mine))
    stopped = engine.submit(
        Request(
            prompt="hi", sampling=SamplingParams(max_new_tokens=200, ignore_eos=True), trace=cut
        )
    )
    done.result()
    stopped.cancel()
    engine.shutdown()
    assert ear.records.keys() == {mine, cut}
    assert ear.records[mine].finish_reasons == (FinishReason.LENGTH,) * 2
    assert ear.records[cut].finish_reasons == ()
    assert Request(prompt="hi", trace=mine) == Request(prompt="hi", trace=cut)
    assert "trace" not in repr(Request(prompt="hi", trace=mine))


def test_a_first_read_is_told_to_whom_it_was_waited_for(engine: Engine) -> None:
    (known,) = (r for r in engine.registrations() if r.adapter_id == "a1")
    engine.unload_adapter("a1", 20)
    engine.register(known)
    ear = Ear()
    engine.add_observer(ear)
    for trace in ("first", "second"):
        engine.generate(Request(prompt="hi", adapter_id="a1", sampling=SHORT, trace=trace))
    ((told, seconds),) = ear.reads
    assert told == "first"
    assert seconds > 0
