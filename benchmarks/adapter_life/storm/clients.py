"""The threads of a storm: each does one random thing after the other and judges what comes of it."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lora_runtime import (
    AdapterCapacityError,
    AdapterError,
    AdapterInUseError,
    AdapterLimitError,
    AdapterPolicy,
    AdapterUnavailableError,
    Engine,
    Request,
    RequestCancelledError,
    RequestHandle,
    RequestTimeoutError,
    SamplingParams,
    UnknownAdapterError,
    WeightedAdapter,
)

from .answers import LENGTH, PAIR_WEIGHTS, Answers
from .files import break_copy, swap, truncate

STUCK_S = 60.0
"""Deadline of requests that are to finish: one that passes it hangs."""
_MAX_FAILURES = 20


@dataclass(frozen=True)
class Cast:
    """The ids, each with the contents that it may be given.

    `paired`: ids of compositions. `fragile`: ids whose directories change under the engine; nobody
    else has their contents.
    """

    plain: dict[str, Sequence[Path]]
    paired: dict[str, Sequence[Path]]
    fragile: dict[str, Sequence[Path]]

    @property
    def all(self) -> dict[str, Sequence[Path]]:
        return self.plain | self.paired | self.fragile


@dataclass
class Tally:
    """What all threads have seen. Guarded by its lock."""

    actions: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    checked_answers: int = 0
    checked_tokens: int = 0
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    swapping: threading.Lock = field(default_factory=threading.Lock)
    """While files change that an id is loaded from: a new config beside old weights may well be an
    adapter, but none whose answers are known."""

    def fail(self, text: str) -> None:
        with self.lock:
            if len(self.failures) < _MAX_FAILURES:
                self.failures.append(text)


class Client:
    """One thread's random walk; `scratch` is a directory of its own, `fragile_root` one that all
    share."""

    def __init__(
        self,
        engine: Engine,
        cast: Cast,
        answers: Answers,
        tally: Tally,
        seed: int,
        scratch: Path,
        fragile_root: Path,
    ) -> None:
        self._engine, self._cast, self._answers, self._tally = engine, cast, answers, tally
        self._rng = random.Random(seed)
        self._scratch, self._fragile_root = scratch, fragile_root
        self._ids = list(cast.all)
        self._walk: dict[Callable[[], None], float] = {
            self._ask: 10,
            self._stream: 8,
            self._compose: 5,
            self._ask_base: 3,
            self._cancel: 4,
            self._hurry: 4,
            self._load: 10,
            self._load_canary: 2,
            self._move_canary: 3,
            self._roll_back: 3,
            self._set_policy: 4,
            self._unload: 2,
            self._load_broken: 2,
            self._change_on_disk: 1,
            self._load_fragile: 1,
        }

    def run(self, until: float) -> None:
        actions, weights = list(self._walk), list(self._walk.values())
        while time.monotonic() < until:
            action = self._rng.choices(actions, weights)[0]
            name = action.__name__.strip("_")
            with self._tally.lock:
                self._tally.actions[name] += 1
            try:
                action()
            except Exception as error:
                self._tally.fail(f"{name}: {type(error).__name__}: {error}")

    # --- requests -------------------------------------------------------------------------------

    def _ask(self) -> None:
        adapter_id = self._any_id()
        with self._allowing(adapter_id, AdapterLimitError, AdapterCapacityError):
            request = self._request(adapter_id=adapter_id, n=self._rng.choice((1, 1, 3)))
            self._check_all(self._engine.submit(request))

    def _ask_base(self) -> None:
        with self._allowing(""):
            self._check_all(self._engine.submit(self._request()))

    def _compose(self) -> None:
        first, second = sorted(self._rng.sample(list(self._cast.paired), 2))
        uses = tuple(
            WeightedAdapter(i, w) for i, w in zip((first, second), PAIR_WEIGHTS, strict=True)
        )
        with self._allowing(first, AdapterLimitError, AdapterCapacityError):
            self._check_all(self._engine.submit(self._request(adapters=uses)))

    def _stream(self) -> None:
        """Read token by token, and perhaps stop in the middle."""
        adapter_id = self._any_id()
        stop_after = self._rng.choice((None, None, 1, 5))
        with self._allowing(adapter_id, AdapterLimitError, AdapterCapacityError):
            handle = self._engine.submit(self._request(adapter_id=adapter_id))
            got: list[int] = []
            try:
                for event in handle:
                    got += event.token_ids
                    if stop_after is not None and len(got) >= stop_after:
                        handle.cancel()
                self._check(
                    handle, got, None if stop_after else handle.request.sampling.max_new_tokens
                )
            except RequestCancelledError:
                self._check(handle, got, None)
                if stop_after is None:
                    raise

    def _cancel(self) -> None:
        adapter_id = self._any_id()
        with self._allowing(
            adapter_id, AdapterLimitError, AdapterCapacityError, RequestCancelledError
        ):
            handle = self._engine.submit(
                self._request(adapter_id=adapter_id, n=self._rng.choice((1, 3)))
            )
            time.sleep(self._rng.random() * 0.03)
            handle.cancel()
            self._check_all(handle)

    def _hurry(self) -> None:
        adapter_id, timeout_s = self._any_id(), self._rng.choice((1e-4, 1e-3, 1e-2, 5e-2))
        with self._allowing(
            adapter_id, AdapterLimitError, AdapterCapacityError, RequestTimeoutError
        ):
            self._check_all(
                self._engine.submit(self._request(adapter_id=adapter_id, timeout_s=timeout_s))
            )

    def _request(
        self,
        adapter_id: str = "",
        adapters: tuple[WeightedAdapter, ...] = (),
        n: int = 1,
        timeout_s: float = STUCK_S,
    ) -> Request:
        number = self._rng.randrange(len(self._answers.prompts))
        sampling = SamplingParams(max_new_tokens=self._rng.randint(1, LENGTH), ignore_eos=True, n=n)
        return Request(
            token_ids=self._answers.prompts[number],
            adapter_id=adapter_id,
            adapters=adapters,
            sampling=sampling,
            timeout_s=timeout_s,
            priority=self._rng.choice((0, 0, 0, -1, 2)),
            request_id=f"prompt {number}",
        )

    def _check_all(self, handle: RequestHandle) -> None:
        for choice in handle.result().choices:
            self._check(handle, choice.token_ids, handle.request.sampling.max_new_tokens)

    def _check(self, handle: RequestHandle, got: Sequence[int], length: int | None) -> None:
        problem = self._answers.problem(
            handle.adapters, int(handle.request_id.split()[1]), got, length
        )
        with self._tally.lock:
            self._tally.checked_answers += 1
            self._tally.checked_tokens += len(got)
        if problem:
            self._tally.fail(problem)

    # --- adapters -------------------------------------------------------------------------------

    def _load(self) -> None:
        adapter_id = self._any_id(fragile=False)
        with self._allowing(adapter_id, AdapterCapacityError):
            self._engine.load_adapter(self._rng.choice(self._cast.all[adapter_id]), adapter_id)

    def _load_canary(self) -> None:
        adapter_id = self._any_id(fragile=False)
        with self._allowing(adapter_id, AdapterCapacityError):
            content = self._rng.choice(self._cast.all[adapter_id])
            self._engine.load_adapter(
                content, adapter_id, canary_weight=self._rng.choice((0.1, 0.5))
            )

    def _move_canary(self) -> None:
        adapter_id = self._any_id()
        with self._allowing(adapter_id, AdapterUnavailableError):
            self._engine.set_canary(adapter_id, self._rng.choice((0, 0.3, 1)))

    def _roll_back(self) -> None:
        adapter_id = self._any_id()
        with self._allowing(adapter_id, AdapterUnavailableError):
            self._engine.rollback_adapter(adapter_id)

    def _set_policy(self) -> None:
        adapter_id = self._any_id()
        policy = AdapterPolicy(
            weight=self._rng.choice((0.5, 1, 4)),
            max_running=self._rng.choice((0, 0, 1, 3)),
            max_waiting=self._rng.choice((0, 0, 2)),
            tokens_per_minute=self._rng.choice((0, 0, 0, 5000)),
            pinned=self._rng.random() < 0.4,
        )
        with self._allowing(adapter_id, AdapterCapacityError):
            self._engine.set_policy(adapter_id, policy)
            if policy.pinned:  # for a moment: if enough were pinned at once, nothing else could run
                time.sleep(self._rng.random() * 0.2)
                self._engine.set_policy(adapter_id, AdapterPolicy())

    def _unload(self) -> None:
        adapter_id = self._any_id()
        with self._allowing(adapter_id, AdapterInUseError):
            self._engine.unload_adapter(adapter_id, timeout_s=self._rng.choice((0, 0, 0.05, 0.5)))

    def _load_broken(self) -> None:
        """Under a name in use or a new one: refused either way, and the name goes on as before."""
        adapter_id = self._any_id(fragile=False)
        name = self._rng.choice((adapter_id, "broken"))
        directory = break_copy(
            self._rng.choice(self._cast.all[adapter_id]), self._scratch / "broken", self._rng
        )
        try:
            self._engine.load_adapter(directory, name)
        except AdapterError:
            self._count("broken files refused")
        else:
            self._tally.fail("broken files were accepted")
        finally:
            shutil.rmtree(directory)

    def _change_on_disk(self) -> None:
        """What an id was registered from becomes something else; only that id may notice."""
        adapter_id = self._rng.choice(list(self._cast.fragile))
        directory = self._fragile_root / adapter_id
        with self._tally.swapping:
            if self._rng.random() < 0.3:
                truncate(directory, self._rng)
            else:
                swap(self._rng.choice(self._cast.fragile[adapter_id]), directory)

    def _load_fragile(self) -> None:
        adapter_id = self._rng.choice(list(self._cast.fragile))
        with self._tally.swapping, self._allowing(adapter_id, AdapterCapacityError, AdapterError):
            self._engine.load_adapter(self._fragile_root / adapter_id, adapter_id)

    # --- both -----------------------------------------------------------------------------------

    def _any_id(self, fragile: bool = True) -> str:
        """A few ids are asked for most of the time, so that they meet themselves; the others come
        from far away."""
        ids = self._ids if fragile else [*self._cast.plain, *self._cast.paired]
        return ids[int(len(ids) * self._rng.random() ** 2)]

    @contextmanager
    def _allowing(self, adapter_id: str, *errors: type[Exception]) -> Iterator[None]:
        """Errors that other threads' doings explain are counted; any other is a failure."""
        if adapter_id:
            errors = (*errors, UnknownAdapterError)
        if adapter_id in self._cast.fragile:
            errors = (*errors, AdapterUnavailableError)
        try:
            yield
        except errors as error:
            self._count(type(error).__name__)
        else:
            self._count("ok")

    def _count(self, outcome: str) -> None:
        with self._tally.lock:
            self._tally.outcomes[outcome] += 1
