"""Work in processes with limits: what it may take, what it sees, and that it ends with whoever
wanted it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from lora_runtime.foreign import frames
from lora_runtime.foreign.process import (
    Worker,
    WorkError,
    Workers,
    WorkLimits,
    WorkTimeoutError,
)
from lora_runtime.foreign.templates import RENDER

from ...support.models import make_tokenizer

LIMITS = WorkLimits(seconds=30, memory_bytes=256 << 20)
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Grüße, 世界 <b>🎉</b>"},
    {"role": "assistant", "content": ""},
]
MAX_CHARS = 1000


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    workers = Workers()
    use = workers.use()
    yield workers
    use.close()


@pytest.fixture
def worker(workers: Workers) -> Iterator[Worker]:
    worker = workers.worker()
    yield worker
    worker.close()


def ask(worker: Worker, work: str, *arguments: Any, limits: WorkLimits = LIMITS) -> Any:
    return worker.ask(work, *arguments, limits=limits, max_bytes=1 << 16)


def render(worker: Worker, template: str, limits: WorkLimits = LIMITS) -> Any:
    return ask(worker, RENDER, template, MESSAGES, {"bos_token": "<s>"}, MAX_CHARS, limits=limits)


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>\n  {{ m['content'] | trim }}\n"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
        "{% for m in messages %}\n    {%- if loop.first %}{% continue %}{% endif %}"
        "{% generation %}{{ m | tojson(indent=1) }}{% endgeneration %}{% endfor %}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
        "{{ ns.n }} {{ strftime_now('%Y') }} {{ tools is none }} {{ dict(a=1) }}"
        "{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f('<&>') }}",
    ],
)
def test_it_renders_as_transformers_does(worker: Worker, template: str) -> None:
    own: PreTrainedTokenizerFast = make_tokenizer()
    own.eos_token = None
    expected = own.apply_chat_template(
        MESSAGES, chat_template=template, add_generation_prompt=True, tokenize=False
    )
    assert render(worker, template) == expected
    assert render(worker, template) == expected, "the second time"


@pytest.mark.parametrize("text", ["\0" * 50, "\U0001f389" * 50, "\ud800" * 50, '\u2028"\\'])
def test_texts_cross_as_they_are_and_in_few_bytes(text: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frames.send(ours, text)
        assert frames.receive(theirs, 6 * len(text) + 2) == text


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i * j %}{% endfor %}"
        "{% endfor %}",
        "{% set x = 7 ** 60000000 %}",  # one call in C, computed when it is compiled
        "{% set x = messages | length %}{% set x = (x + 4) ** 60000000 %}",
    ],
)
def test_its_time_is_limited(workers: Workers, worker: Worker, template: str) -> None:
    with pytest.raises(WorkTimeoutError, match=r"took longer than 0\.5 s"):
        render(worker, template, WorkLimits(seconds=0.5))
    assert worker.closed
    with workers.worker() as other:
        assert render(other, "fine") == "fine"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% set x = 'a' * 3000000000 %}", "more memory"),
        ("{{ '%2000000000d' % 1 }}", "more memory"),
        ("{{ '{:2000000000}'.format(1) }}", "more memory"),
        ("{% set n = namespace(a=[1]) %}{% for i in range(99) %}{% set n.a = n.a + n.a %}"
         "{% endfor %}", "more memory"),
        ("{{ 'a ' * 800000 }}", "makes a text of 1600000 characters, 1000 may fit"),
        ("{{ 1 // 0 }}", "refuses them: integer division"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "refuses them: maximum recursion"),
        ("{" * 100_000, "refuses them: "),
        ("{% for %}", "refuses them: "),
        ("{{ '\\ud800' }}", "refuses them: "),
        ("{{ raise_exception('roles must ' + 'alternate' * 999) }}", "refuses them: roles must alt"),
        ("{{ raise_exception('\\ud800') }}", "refuses them: .ud800"),
        ("{{ messages.__class__.__mro__ }}", "refuses them: "),
    ],
)  # fmt: skip
def test_what_it_refuses(worker: Worker, template: str, message: str) -> None:
    with pytest.raises(WorkError, match=message) as refusal:
        render(worker, template)
    assert len(str(refusal.value)) <= 320
    assert render(worker, "fine") == "fine", "it goes on"


@pytest.mark.parametrize("work", ["os:abort", "os:_exit"])
def test_one_that_dies_is_told(workers: Workers, worker: Worker, work: str) -> None:
    with pytest.raises(WorkError, match="ended its process"):
        ask(worker, work, *([3] if work == "os:_exit" else []))
    with workers.worker() as other:
        assert ask(other, "os:getpid") > 0


def test_answers_are_limited(worker: Worker) -> None:
    with pytest.raises(WorkError, match="ended its process"):
        worker.ask("os:listdir", "/proc", limits=LIMITS, max_bytes=10)
    assert worker.closed


def test_it_sees_no_secrets_and_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAMUX_SECRET", "x")
    workers = Workers()
    use = workers.use()
    with workers.worker() as worker:
        assert ask(worker, "os:getenv", "LORAMUX_SECRET") is None
        assert ask(worker, "os:nice", 0) >= min(19, os.nice(0) + 10)
        assert sorted(ask(worker, "os:listdir", "/proc/self/fd"))[:3] == ["0", "1", "2"]
        with pytest.raises(WorkError, match="torch"):
            ask(worker, "torch:get_num_threads")
    use.close()


def test_a_program_that_was_killed_is_started_again(workers: Workers) -> None:
    with workers.worker() as worker:
        program = ask(worker, "os:getppid")
    os.kill(program, signal.SIGKILL)
    with workers.worker() as worker:
        assert ask(worker, "os:getppid") != program


def test_it_ends_with_its_last_user() -> None:
    workers = Workers()
    uses = [workers.use(), workers.use()]
    with workers.worker() as worker:
        pids = [ask(worker, "os:getpid"), ask(worker, "os:getppid")]
        for use in [uses[0], uses[0]]:  # once counts
            use.close()
        assert ask(worker, "os:getpid") == pids[0]
        uses[1].close()
        wait_until(lambda: not any(map(is_there, pids)))
        with pytest.raises(WorkError, match="ended its process"):
            ask(worker, "os:getpid")


def test_it_ends_with_a_process_that_was_killed() -> None:
    """Also a worker that waits for nothing: one is in a function that does not return."""
    program = (
        "import threading\n"
        "from lora_runtime.foreign.process import Workers, WorkLimits\n"
        "workers = Workers(); first, second = workers.worker(), workers.worker()\n"
        "limits = WorkLimits(seconds=600)\n"
        "get = lambda w, name: w.ask(name, limits=limits, max_bytes=99)\n"
        "print(get(first, 'os:getpid'), get(first, 'os:getppid'), get(second, 'os:getpid'))\n"
        "print(flush=True)\n"
        "second.ask('time:sleep', 600, limits=limits, max_bytes=99)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as server:
        assert server.stdout is not None
        pids = [int(pid) for pid in server.stdout.readline().split()]
        server.stdout.readline()
        assert len(pids) == 3
        assert all(map(is_there, pids))
        server.kill()
    wait_until(lambda: not any(map(is_there, pids)))


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
