"""The tests. Their device is chosen before anything imports triton."""

from .support import device  # noqa: F401
