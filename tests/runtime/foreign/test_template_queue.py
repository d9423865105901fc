"""The queue of chats: keys take turns, and one that takes long is waited for by its own alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass
from typing import Any

import pytest

from lora_runtime import EngineStoppedError
from lora_runtime.foreign.process import WORKERS, WorkLimits, WorkTimeoutError
from lora_runtime.foreign.template_queue import MAX_WAITING, Chat, TemplateQueue

FOREVER = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module", autouse=True)
def _workers() -> Iterator[None]:
    use = WORKERS.use()
    WORKERS.worker().close()  # it is there: what follows does not wait for its start
    yield
    use.close()


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> Iterator[TemplateQueue]:
    queue = TemplateQueue(WorkLimits(getattr(request, "param", 60.0), 128 << 20))
    yield queue
    queue.close()


def render(queue: TemplateQueue, key: str, template: str) -> Future[str]:
    chat = Chat(template, [{"role": "user", "content": key}], {}, 100)
    future = queue.render(key, chat)
    assert future is not None
    return future


def test_texts(queue: TemplateQueue) -> None:
    futures = [render(queue, f"k{i % 3}", "{{ messages[0].content }}") for i in range(30)]
    assert [f.result(60) for f in futures] == [f"k{i % 3}" for i in range(30)]


def test_one_key_takes_one_thread(queue: TemplateQueue) -> None:
    endless = [render(queue, "hostile", FOREVER) for _ in range(8)]
    for _ in range(5):
        assert render(queue, "innocent", "fine").result(60) == "fine"
    assert not any(f.done() for f in endless)


def test_many_slow_ones_that_are_new(queue: TemplateQueue) -> None:
    endless = [render(queue, f"hostile {i}", FOREVER) for i in range(6)]
    assert render(queue, "innocent", "fine").result(50) == "fine"
    assert not any(f.done() for f in endless)


def test_a_slow_one_has_its_time(queue: TemplateQueue) -> None:
    """It begins again, and takes as long as it may; once it is quick it is no slow one any more."""
    slow = "{% for i in range(99999) %}{% for j in range(30) %}{% endfor %}{% endfor %}fine"
    assert render(queue, "slow", slow).result(60) == "fine"
    assert render(queue, "slow", "fine").result(60) == "fine"
    assert not queue._is_slow("slow")


@dataclass(frozen=True)
class Asleep:
    """Task that waits without computing, as one does for which the machine has no core."""

    work: str = "time:sleep"
    arguments: tuple[float] = (0.6,)
    max_bytes: int = 100

    def checked(self, answer: Any) -> Any:
        return answer


def test_what_waits_for_a_core_is_not_slow(queue: TemplateQueue) -> None:
    asleep = queue.render("innocent", Asleep())
    assert asleep is not None
    assert asleep.result(60) is None
    assert not queue._is_slow("innocent")


@pytest.mark.parametrize("queue", [0.3], indirect=True)
def test_keys_that_ran_out_of_time_share_one_thread(queue: TemplateQueue) -> None:
    first = [render(queue, f"hostile {i}", FOREVER) for i in range(2)]
    for future in first:
        with pytest.raises(WorkTimeoutError):
            future.result(60)
    # Fifty of these take fifteen seconds; what comes behind them is not waited for as long.
    endless = [render(queue, f"hostile {i % 2}", FOREVER) for i in range(50)]
    assert render(queue, "innocent", "fine").result(60) == "fine"
    assert not endless[-1].done()


def test_what_waits_is_limited_and_can_be_cancelled(queue: TemplateQueue) -> None:
    running = render(queue, "hostile", FOREVER)
    while not running.running():
        wait([running], 0.01)
    waiting = [render(queue, "hostile", FOREVER) for _ in range(MAX_WAITING)]
    assert queue.render("hostile", Chat("x", [], {}, 1)) is None
    assert all(f.cancel() for f in waiting)
    with pytest.raises(CancelledError):
        waiting[0].result()
    assert not render(queue, "hostile", FOREVER).done()


def test_the_end_waits_for_no_template(queue: TemplateQueue) -> None:
    running = [render(queue, f"hostile {i}", FOREVER) for i in range(2)]
    while not all(f.running() for f in running):
        wait(running, 0.01)
    waiting = render(queue, "hostile 0", FOREVER)
    queue.close()
    for future in [*running, waiting]:
        with pytest.raises(EngineStoppedError):
            future.result(30)
    with pytest.raises(EngineStoppedError):
        render(queue, "late", "fine")
