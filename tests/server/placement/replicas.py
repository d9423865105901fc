"""Stand-ins for replicas: metrics ports with pages that a test writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from prometheus_client import CollectorRegistry

from server import metrics_port

from ...support.servers import free_port


class StandIn:
    """A replica's metrics port."""

    def __init__(self, slots: int = 2) -> None:
        self.port = free_port()
        self.slots, self.loads = slots, 0
        self.resident: set[str] = set()
        self.work: Mapping[str, float] = {}
        pages = {metrics_port.PLACEMENT_PATH: self._page}
        self._server = metrics_port.start("127.0.0.1", self.port, CollectorRegistry(), pages)

    def _page(self) -> bytes:
        lines = [
            f'vllm:max_gpu_lora_adapters{{model_name="base"}} {self.slots}.0',
            f'vllm:lora_adapter_load_seconds_count{{model_name="base"}} {self.loads}.0',
        ]
        lines += [
            f'vllm:lora_adapter_loaded{{adapter_name="{name}",level="gpu",pinned="false",rank="8"}} 1.0'
            for name in self.resident
        ]
        lines += [
            f'loramux_adapter_work_tokens_total{{adapter="{name}"}} {tokens}'
            for name, tokens in self.work.items()
        ]
        return "".join(f"{line}\n" for line in lines).encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def stand_ins(count: int, slots: int = 2) -> Iterator[list[StandIn]]:
    """Run stand-ins."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            found.append(StandIn(slots))
            stack.callback(found[-1].close)
        yield found
