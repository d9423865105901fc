"""Numbers at the ends of their ranges, on both backends of a CPU."""

from __future__ import annotations

import math
from typing import Any

import pytest
from loramux.v1 import adapters_pb2

from .arena import Arena, expect
from .calls import asked
from .fronts import GRPC, HTTP, Front, both
from .ground import CONTEXT, VOCAB
from .server import ServerProcess

pytestmark = pytest.mark.attacks

NAN, INF, TINY = math.nan, math.inf, 1e-45
OK, BAD, DENIED = "OK", "INVALID_ARGUMENT", "PERMISSION_DENIED"
Case = tuple[dict[str, Any], str]

REPETITION = [
    *((v, BAD) for v in (NAN, INF, -INF, TINY, 1e-38, 1e-30, 1e-3, 0.0, -1.0, 101.0, 1e38)),
    *((v, OK) for v in (0.01, 0.5, 1.0, 100.0)),
]
PENALTIES: list[Case] = [
    *(
        ({"repetition_penalty": value, "temperature": t, "logprobs": k}, code)
        for value, code in REPETITION
        for t in (0.0, 1.0)
        for k in (0, 20)
    ),
    *(
        ({name: value, "temperature": 1.0}, code)
        for name in ("presence_penalty", "frequency_penalty")
        for value, code in ((NAN, BAD), (INF, BAD), (2.1, BAD), (1e38, BAD), (2.0, OK), (-2.0, OK))
    ),
]
SAMPLING: list[Case] = [
    *(({"temperature": v}, BAD) for v in (NAN, INF, -INF, -1.0, 3e38)),
    *(({"temperature": v}, OK) for v in (0.0, -0.0, 1.0)),
    *(({"temperature": 1.0, "top_p": v}, BAD) for v in (NAN, INF, 1.01, -1.0)),
    *(({"temperature": 1.0, "top_p": v}, OK) for v in (1e-6, 0.5, 1.0)),
    *(({"temperature": 1.0, "min_p": v}, BAD) for v in (NAN, INF, -0.1, 2.0)),
    *(({"temperature": 1.0, "min_p": v}, OK) for v in (0.0, TINY, 1.0)),
    *(({"temperature": 1.0, "top_k": v}, OK) for v in (0, 1, 2**31 - 1, 2**31, 2**32 - 1)),
    *(({"temperature": 1.0, "n": 16, "seed": v}, OK) for v in (0, 2**63 - 1)),
    *(({"seed": v}, BAD) for v in (2**63, 2**64 - 1)),
]
EITHER = f"{OK} or {BAD}"
SMALL: list[Case] = [
    *(({"temperature": 1.0, "top_p": v}, EITHER) for v in (0.0, -0.0)),  # OpenAI's form has it
    *(({"temperature": v, "top_k": 5, "top_p": 1e-6, "min_p": 1.0}, EITHER) for v in (TINY, 1e-38)),
    *(
        ({"temperature": v, "repetition_penalty": 0.01, "n": 4}, EITHER)
        for v in (TINY, 1e-30, 100.0)
    ),
    *(
        ({"temperature": 1.0, "top_p": TINY, "repetition_penalty": p}, EITHER)
        for p in (0.01, 100.0)
    ),
]
COUNTS: list[Case] = [
    *(({"n": v}, BAD) for v in (0, 17, 2**32 - 1)),
    *(({"logprobs": v}, BAD) for v in (21, 2**32 - 1)),
    *(({"max_new_tokens": v}, BAD) for v in (0,)),
    ({"max_new_tokens": 2**32 - 1, "stop_token_ids": list(range(256))}, EITHER),
    *(({"priority": v}, BAD) for v in (-(2**31), -11)),
    *(({"priority": v}, f"{BAD} or {DENIED}") for v in (11, 2**31 - 1)),
    ({"stop": ["x"] * 17}, BAD),
    ({"stop": ["x" * 1025]}, BAD),
    ({"stop": [""]}, BAD),
    ({"request_id": "a\nb"}, BAD),
    ({"request_id": "x" * 129}, BAD),
    *(({"token_ids": [v]}, BAD) for v in (VOCAB, 2**31, 2**32 - 1)),
    ({"token_ids": [2] * CONTEXT}, BAD),
    ({"prompt": "x", "token_ids": [1]}, BAD),
    ({"prompt": ""}, EITHER),
    ({"messages": [{"role": "</s>", "content": "{{ 7 * 7 }}"}]}, OK),
]
GROUPS: dict[str, list[Case]] = {
    "penalties": PENALTIES,
    "sampling": SAMPLING,
    "small": SMALL,
    "counts": COUNTS,
}


def attack_with(arena: Arena, front: Front, cases: list[Case], server: ServerProcess) -> str:
    """Send all cases at once, each to end as it says."""
    if front is HTTP:  # which has one name for both
        cases = [case for case in cases if not {"prompt", "token_ids"} <= case[0].keys()]
    requests = [asked(**fields) for fields, _ in cases]
    outcomes = []
    for i in range(0, len(requests), 20):  # the queue has room for them
        outcomes += front.send(arena.attackers, server, requests[i : i + 20], "attacker")
    wrong = [
        f"{dict(fields)}: {got.code} instead of {code} {got.details}"[:200]
        for (fields, code), got in zip(cases, outcomes, strict=True)
        if got.code not in code.split(" or ")
    ]
    assert not wrong, f"{len(wrong)} of {len(cases)}, {wrong[0]}"
    return f"{len(cases)} cases, {expect(outcomes, OK, BAD, DENIED)}"


@both
@pytest.mark.parametrize("group", GROUPS)
def test_numbers_of_a_request(arena: Arena, front: Front, group: str) -> None:
    arena.withstand(
        front.named(f"numbers: {group}"),
        lambda server: attack_with(arena, front, GROUPS[group], server),
    )


@pytest.mark.parametrize("group", GROUPS)
def test_numbers_of_a_request_on_torch(torch_arena: Arena, group: str) -> None:
    torch_arena.withstand(
        f"numbers, torch: {group}",
        lambda server: attack_with(torch_arena, GRPC, GROUPS[group], server),
    )


WEIGHTS = (NAN, INF, -INF, 0.0, -0.0, 101.0, 1e38)


@both
def test_weights_of_a_composition(arena: Arena, front: Front) -> None:
    requests = [asked(adapters=[{"adapter_id": "good", "weight": w}]) for w in WEIGHTS]

    def attack(server: ServerProcess) -> str:
        return expect(front.send(arena.attackers, server, requests, "operator"), BAD)

    arena.withstand(front.named("numbers: weights of a composition"), attack)


def admin_calls() -> list[tuple[str, Any]]:
    """Calls of the Adapters service with numbers that must be refused."""
    policies = [adapters_pb2.Policy(weight=w) for w in (NAN, INF, -1.0, -0.0, 0.0)]
    return [
        *(
            ("SetPolicy", adapters_pb2.SetPolicyRequest(adapter_id="good", policy=p))
            for p in policies
        ),
        *(
            ("SetCanary", adapters_pb2.SetCanaryRequest(adapter_id="good", weight=w))
            for w in (NAN, INF, -1.0, 2.0)
        ),
        *(
            (
                "UnloadAdapter",
                adapters_pb2.UnloadAdapterRequest(adapter_id="cold-00001", timeout_s=t),
            )
            for t in (NAN, INF, -1.0, 3601.0)
        ),
        *(
            ("LoadAdapter", adapters_pb2.LoadAdapterRequest(path="good", canary_weight=w))
            for w in (NAN, INF, -1.0, 1.0)
        ),
        ("ListAdapters", adapters_pb2.ListAdaptersRequest(page_size=2**32 - 1)),
        ("ListAdapters", adapters_pb2.ListAdaptersRequest(page_token="a" * 4_000_000)),
        ("LoadAdapter", adapters_pb2.LoadAdapterRequest(path="a" * 4_000_000)),
        ("LoadAdapter", adapters_pb2.LoadAdapterRequest(path="good", adapter_id="a" * 4_000_000)),
    ]


def test_numbers_of_administration(arena: Arena) -> None:
    def attack(server: ServerProcess) -> str:
        outcomes = []
        for method, request in admin_calls():
            name, data = f"/loramux.v1.Adapters/{method}", request.SerializeToString()
            outcomes += arena.attackers.send(server.target, name, [data], "operator")
        return expect(outcomes, BAD, "PERMISSION_DENIED", "NOT_FOUND")

    arena.withstand("numbers: administration", attack)
