"""All settings in one typed object: flags, LORAMUX_* variables, a YAML file, defaults.

They count in that order. Settings of the engine are the fields of `lora_runtime.EngineConfig`, and
stand there alone.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from lora_runtime import AdapterPolicy, EngineConfig


class Policy(BaseModel):
    """Policy for one adapter's requests: what they may take; 0 is no limit.

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
    _EngineSettings = BaseSettings
else:

    def _field(setting):
        kind = Literal[setting.limit.choices] if setting.limit.choices else setting.type
        return kind, Field(setting.default, description=setting.help, **setting.limit.bounds)

    _EngineSettings = create_model(
        "_EngineSettings",
        __base__=BaseSettings,
        **{s.name: _field(s) for s in EngineConfig.settings()},
    )


class Settings(_EngineSettings):
    """Every setting of `loramux serve`: EngineConfig's, and those here.

    A description is the flag's help text.
    """

    model_config = SettingsConfigDict(env_prefix="LORAMUX_", extra="forbid")

    base: str = Field(
        description="Base model: a directory with config.json and safetensors, or a hub id with --trust-hub."
    )
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all interfaces.")
    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
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
    adapter_manifest: Path | None = Field(
        None,
        description="YAML file that declares adapters; kept in step with while the server runs.",
    )
    adapter_watch: Path | None = Field(
        None,
        description="Directory whose subdirectories are adapters; kept in step with while the server runs.",
    )
    reconcile_s: float = Field(
        5, gt=0, description="Seconds between looks at --adapter-manifest and --adapter-watch."
    )
    state_file: Path | None = Field(
        None,
        description="File that remembers what is registered over a restart; without one nothing is.",
    )
    policies: dict[str, Policy] = Field(
        default_factory=dict,
        description="What adapters' requests may take, as JSON: id to weight, max_running, max_waiting, "
        "tokens_per_minute, pinned. '*' is for all other ids, '' for the base.",
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
        description="Port for health checks alone, without TLS, for probes that cannot speak it; "
        "0 leaves them on --port only.",
    )
    max_message_bytes: int = Field(
        4 << 20, ge=1024, description="Largest gRPC message accepted or sent, in bytes."
    )
    keepalive_s: float = Field(
        30, gt=0, description="Seconds between keepalive pings on an idle connection."
    )
    drain_s: float = Field(
        30, ge=0, description="Seconds that running requests get to finish after SIGTERM."
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
    def _sources_are_urls(self) -> Self:
        for prefix in self.adapter_sources:
            if not all(prefix.partition("://")[:2]):
                raise ValueError(f"adapter_sources: {prefix!r} is not a URL such as hf://my-org")
        return self

    def engine_config(self) -> EngineConfig:
        """Config of the engine. Raises ValueError for values that contradict each other."""
        return EngineConfig(**{f.name: getattr(self, f.name) for f in fields(EngineConfig)})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources. Flags arrive as `init`; the YAML file is named by `load`."""
        file_settings = YamlConfigSettingsSource(
            settings_cls, yaml_file=cls.model_config.get("yaml_file")
        )
        return init_settings, env_settings, file_settings


class SettingsError(Exception):
    """Error for settings that are wrong; the message names each field."""


def load(flags: dict[str, Any], config_file: Path | None = None) -> Settings:
    """Merge all sources. Raises SettingsError."""
    if config_file is not None and not config_file.is_file():
        raise SettingsError(f"config file {config_file} does not exist")

    class FromFile(Settings):
        model_config = SettingsConfigDict(
            env_prefix="LORAMUX_", extra="forbid", yaml_file=config_file
        )

    try:
        settings = FromFile(**{k: v for k, v in flags.items() if v not in (None, [], {})})
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()
        ]
        raise SettingsError("; ".join(problems)) from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise SettingsError(f"config file {config_file} is not a YAML mapping: {error}") from error
    try:
        settings.engine_config()
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return settings
