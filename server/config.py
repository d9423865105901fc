"""All settings in one typed object.

load_settings.py makes it of what sources.py finds. Settings of the engine are the fields of
`lora_runtime.EngineConfig`, and stand there alone.
"""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from lora_runtime import MAX_ID_LENGTH, AdapterPolicy, EngineConfig

_MAX_BYTES = 2**31 - 1
"""Largest size that gRPC takes."""
_MAX_S = 1e6
"""Most seconds of a setting: 11 days. gRPC takes some of them as milliseconds in 32 bits."""
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[a-z0-9.:\[\]_-]+")


class Policy(BaseModel):
    """Policy for one adapter's requests: what they may take; 0 is no limit, of `max_waiting` half of
    the server's.

    As lora_runtime.AdapterPolicy.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    weight: float = Field(1, gt=0, allow_inf_nan=False)
    max_running: int = Field(0, ge=0)
    max_waiting: int = Field(0, ge=0)
    tokens_per_minute: int = Field(0, ge=0)
    pinned: bool = False

    def to_engine(self) -> AdapterPolicy:
        return AdapterPolicy(**self.model_dump())


# Code takes the engine's settings from `Settings.engine_config()`, where their types are known.
if TYPE_CHECKING:
    _EngineSettings = BaseModel
else:

    def _field(setting):
        kind = Literal[setting.limit.choices] if setting.limit.choices else setting.type
        return kind, Field(setting.default, description=setting.help, **setting.limit.bounds)

    _EngineSettings = create_model(
        "_EngineSettings",
        __base__=BaseModel,
        **{s.name: _field(s) for s in EngineConfig.settings()},
    )


class Settings(_EngineSettings):
    """Every setting of `loramux serve`: EngineConfig's, and those here.

    A description is the flag's help text.
    """

    model_config = ConfigDict(extra="forbid")

    base: str = Field(
        description="Base model: a directory with config.json and safetensors, or a hub id with --trust-hub."
    )
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all interfaces.")
    port: int = Field(
        50051,
        ge=0,
        le=65535,
        description="gRPC port, open once the base is loaded; 0 takes a free one.",
    )
    http_port: int = Field(
        8000,
        ge=0,
        le=65535,
        description="Port of the OpenAI-compatible HTTP API, with TLS and tokens as --port; 0 switches it off.",
    )
    served_model_names: list[str] = Field(
        default_factory=list,
        description="Name of the base model over HTTP, the first that of its answers; repeatable. Without one, "
        "the name of --base's directory, or its hub id.",
    )
    http_cors_origins: list[str] = Field(
        default_factory=list,
        description="Origin, such as https://chat.example, whose pages may call the HTTP API from browsers; * is any; "
        "repeatable. Without one, none.",
    )
    page: bool = Field(
        True,
        description="A page at / of the HTTP port that shows the server; it asks for a token where there are tokens.",
    )
    metrics_port: int = Field(
        9464, ge=0, le=65535, description="HTTP port of /metrics; 0 switches it off."
    )
    adapters: dict[str, str] = Field(
        default_factory=dict, description="Adapter to load at start, NAME=DIRECTORY; repeatable."
    )
    adapter_roots: list[Path] = Field(
        default_factory=list,
        description="Directory that LoadAdapter calls may load from; repeatable. Without one, they are refused.",
    )
    adapter_sources: list[str] = Field(
        default_factory=list,
        description="URL below which LoadAdapter calls may load, such as hf://my-org or s3://bucket/adapters; "
        "repeatable. Without one, they may load no URL.",
    )
    resolve_adapters: bool = Field(
        False,
        description="Load an adapter that is not known when a request names it: the directory of that name below an "
        "--adapter-root, or what has it below an --adapter-source.",
    )
    adapter_manifest: Path | None = Field(
        None,
        description="YAML file that declares adapters; kept in step with while the server runs.",
    )
    adapter_watch: Path | None = Field(
        None,
        description="Directory whose subdirectories are adapters; kept in step with while the server runs.",
    )
    allow_unknown_fields: list[str] = Field(
        default_factory=list,
        description="Name of an --adapter, or of a directory in --adapter-watch, whose adapter_config.json may hold "
        "unknown fields: they are passed over, with a note; repeatable.",
    )
    reconcile_s: float = Field(
        5,
        gt=0,
        le=_MAX_S,
        description="Seconds between looks at --adapter-manifest and --adapter-watch.",
    )
    ready_after_s: float = Field(
        0,
        ge=0,
        le=_MAX_S,
        description="Seconds after which the server is ready although declared adapters are missing, counted "
        "from when the base is loaded; 0 waits for all, so that a broken one stops a rollout.",
    )
    state_file: Path | None = Field(
        None,
        description="File that remembers what is registered over a restart; without one nothing is.",
    )
    policies: dict[str, Policy] = Field(
        default_factory=dict,
        description="What adapters' requests may take, as JSON: id to weight, max_running, max_waiting, "
        "tokens_per_minute, pinned. '*' is for all other ids, '' for the base. Without a max_waiting half of the "
        "server's may wait.",
    )
    auth_file: Path | None = Field(
        None,
        description="YAML file of bearer tokens' hashes and scopes, see docs/guide/security.md; without one "
        "anyone who reaches the port may call everything.",
    )
    tls_cert: Path | None = Field(
        None, description="PEM file with the server's certificate chain; turns TLS on."
    )
    tls_key: Path | None = Field(None, description="PEM file with the private key of --tls-cert.")
    tls_client_ca: Path | None = Field(
        None,
        description="PEM file with the authorities that clients' certificates must come from (mutual TLS).",
    )
    health_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port for health checks alone, open from the start and without TLS, for probes that cannot "
        "speak it; 0 leaves them on --port only.",
    )
    max_message_bytes: int = Field(
        4 << 20,
        ge=1024,
        le=_MAX_BYTES,
        description="Largest gRPC message accepted or sent, and largest HTTP body accepted, in bytes.",
    )
    keepalive_s: float = Field(
        30, gt=0, le=_MAX_S, description="Seconds between keepalive pings on an idle connection."
    )
    max_connection_age_s: float = Field(
        0,
        ge=0,
        le=_MAX_S,
        description="Seconds after which a client's connection is renewed, so that clients find new servers and a stop "
        "fails no call; running calls finish on the old one. 0: never.",
    )
    drain_delay_s: float = Field(
        0,
        ge=0,
        le=_MAX_S,
        description="Seconds after SIGTERM in which health is NOT_SERVING and calls are still taken: the time that "
        "load balancers need to look elsewhere.",
    )
    drain_s: float = Field(
        30,
        ge=0,
        le=_MAX_S,
        description="Seconds that running requests get to finish after SIGTERM and --drain-delay-s.",
    )
    step_timeout_s: float = Field(
        120,
        ge=0,
        le=_MAX_S,
        description="Seconds that one step of the engine may take: while an older one runs, the server is "
        "neither live nor ready. 0 is no limit.",
    )
    metrics_names: list[Literal["loramux", "vllm"]] = Field(
        ["loramux", "vllm"],
        min_length=1,
        description="Names that metrics have, with commas: loramux's own (loramux_*), and those that vLLM's dashboards "
        "and routers know (vllm:*).",
    )
    metrics_adapter_labels: int = Field(
        100,
        ge=0,
        description="Adapters with a metrics label of their own; later ones count as 'other'.",
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="Form of log lines on standard error."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level logged."
    )
    log_requests: float = Field(
        1,
        ge=0,
        le=1,
        description="Share of the finished requests that get a line in the log; failed ones all do.",
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key are needed together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        for name, other in combinations(("port", "http_port", "metrics_port", "health_port"), 2):
            if getattr(self, name) == getattr(self, other) != 0:
                raise ValueError(f"{name} and {other} must not be the same")
        return self

    @model_validator(mode="after")
    def _names_are_the_bases_own(self) -> Self:
        for name in self.served_model_names:
            if not 1 <= len(name) <= MAX_ID_LENGTH:
                raise ValueError(f"served_model_names: 1 to {MAX_ID_LENGTH} characters each")
            if name in self.adapters:
                raise ValueError(f"served_model_names: {name!r} is one of adapters")
        return self

    @model_validator(mode="after")
    def _sources_are_urls(self) -> Self:
        for prefix in self.adapter_sources:
            if not all(prefix.partition("://")[:2]):
                raise ValueError(f"adapter_sources: {prefix!r} is not a URL such as hf://my-org")
        return self

    @model_validator(mode="after")
    def _origins_are_as_browsers_send_them(self) -> Self:
        for origin in self.http_cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"http_cors_origins: {origin!r} is no origin such as https://chat.example"
                )
        return self

    @model_validator(mode="after")
    def _resolved_are_somewhere(self) -> Self:
        if self.resolve_adapters and not (self.adapter_roots or self.adapter_sources):
            raise ValueError("resolve_adapters needs adapter_roots or adapter_sources")
        return self

    @model_validator(mode="after")
    def _allowed_are_adapters(self) -> Self:
        if self.adapter_watch is None:
            for name in self.allow_unknown_fields:
                if name not in self.adapters:
                    raise ValueError(f"allow_unknown_fields: {name!r} is none of adapters")
        return self

    def engine_config(self) -> EngineConfig:
        """Config of the engine. Raises ValueError for values that contradict each other."""
        return EngineConfig(**{f.name: getattr(self, f.name) for f in fields(EngineConfig)})
