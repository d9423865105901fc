"""Right to more than a share: what a policy may give without it."""

from __future__ import annotations

from lora_runtime import AdapterPolicy, Engine

from .tokens import Caller

PIN_SHARE = 0.5
"""Part of the slots that may be pinned once a call has pinned one, whatever its rights are: the
rest is for adapters that come and go. The operator's settings and manifest may pin more."""


def check_policy(who: Caller, engine: Engine, adapter_id: str, policy: AdapterPolicy) -> None:
    """Check that `who` may set this policy. Raises PermissionError.

    What takes from others needs the right `shares`: to pin, a weight or a limit above the default
    policy's. What the adapter has already may be set again.
    """
    if who.shares:
        return
    half = (engine.info().max_waiting + 1) // 2  # as Limits has it
    wanted = _gives(policy, half)
    ceilings = [_gives(engine.policy(name), half) for name in ("*", adapter_id)]
    beyond = [name for name in wanted if wanted[name] > max(c[name] for c in ceilings)]
    if beyond:
        fields = ", ".join(f"policy.{name}" for name in beyond)
        raise PermissionError(
            f"{fields}: this token has no right to give adapter {adapter_id!r} more than the "
            "default policy does (shares)"
        )


def _gives(policy: AdapterPolicy, half: int) -> dict[str, float]:
    """What a policy gives, the more the larger; a limit of 0 is none."""
    return {
        "weight": policy.weight,
        "max_running": policy.max_running or float("inf"),
        "max_waiting": policy.max_waiting or half,
        "tokens_per_minute": policy.tokens_per_minute or float("inf"),
        "pinned": policy.pinned,
    }
