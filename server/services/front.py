"""The gRPC front: its services, and what every call of them goes through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from loramux.v1 import (
    adapters_pb2,
    adapters_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
)

from lora_runtime import RequestLimits

from ..auth.interceptor import TokenInterceptor
from ..auth.tokens import TokenFile
from ..config import Settings
from ..grpc import reflection
from ..grpc.calls import CallInterceptor
from ..grpc.limits import LimitInterceptor
from ..lifecycle.health import Health
from ..metrics import Metrics
from ..tls import is_loopback
from ..transport import channel_options
from .adapters import AdaptersService
from .inference import InferenceService
from .server_info import ServerInfoService

log = structlog.get_logger("loramux.server")
OWN_SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name,
    adapters_pb2.DESCRIPTOR.services_by_name["Adapters"].full_name,
    server_pb2.DESCRIPTOR.services_by_name["Server"].full_name,
)


def interceptors(
    calls: CallInterceptor,
    limits: Callable[[], RequestLimits],
    tokens: TokenFile | None,
    on_refused: Callable[[str], None],
) -> list[grpc.aio.ServerInterceptor]:
    """Make what calls go through, the outermost first; without `tokens` everybody may call."""
    found: list[grpc.aio.ServerInterceptor] = [calls, LimitInterceptor(limits)]
    return found if tokens is None else [*found, TokenInterceptor(tokens, on_refused)]


def probe_server(
    settings: Settings, metrics: Metrics, limits: Callable[[], RequestLimits]
) -> grpc.aio.Server:
    """Make the server of the port for health checks alone."""
    return grpc.aio.server(
        options=channel_options(settings),
        interceptors=[CallInterceptor([metrics]), LimitInterceptor(limits)],
    )


def warn_of_plain_tokens(settings: Settings) -> None:
    if settings.tls_cert is None and not is_loopback(settings.host):
        log.warning(
            "bearer tokens without TLS: anyone on the way can read them", host=settings.host
        )


def add_services(
    server: Any,
    inference: InferenceService,
    adapters: AdaptersService,
    info: ServerInfoService,
    health_service: Health,
) -> None:
    """Add loramux's services, health checking and reflection."""
    inference_pb2_grpc.add_InferenceServicer_to_server(inference, server)
    adapters_pb2_grpc.add_AdaptersServicer_to_server(adapters, server)
    server_pb2_grpc.add_ServerServicer_to_server(info, server)
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    reflection.add_to(server, (*OWN_SERVICES, health.SERVICE_NAME))
