"""All settings in one typed object: flags, then LORAMUX_* variables, then a YAML file, then defaults."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

if TYPE_CHECKING:
    from lora_runtime import AdapterPolicy, EngineConfig


class Policy(BaseModel):
    """What one adapter's requests may take; 0 is no limit. As lora_runtime.AdapterPolicy."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    weight: float = Field(1, gt=0, allow_inf_nan=False)
    max_running: int = Field(0, ge=0)
    max_waiting: int = Field(0, ge=0)
    tokens_per_minute: int = Field(0, ge=0)
    pinned: bool = False

    def to_engine(self) -> AdapterPolicy:
        from lora_runtime import AdapterPolicy

        return AdapterPolicy(**self.model_dump())


class Settings(BaseSettings):
    """Every setting of `loramux serve`. A field's description is its flag's help text."""

    model_config = SettingsConfigDict(env_prefix="LORAMUX_", extra="forbid")

    base: str = Field(
        description="Base model: a directory with config.json and safetensors, or a hub id with --trust-hub.")
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all interfaces.")
    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    metrics_port: int = Field(9464, ge=0, le=65535, description="HTTP port of /metrics; 0 switches it off.")
    adapters: dict[str, str] = Field(
        default_factory=dict, description="Adapter to load at start, NAME=DIRECTORY; repeatable.")
    adapter_roots: list[Path] = Field(
        default_factory=list,
        description="Directory that LoadAdapter calls may load from; repeatable. Without one, they are refused.")
    adapter_sources: list[str] = Field(
        default_factory=list,
        description="URL below which LoadAdapter calls may load, such as hf://my-org or s3://bucket/adapters; "
        "repeatable. Without one, they may load no URL.")
    adapter_manifest: Path | None = Field(
        None, description="YAML file that declares adapters; kept in step with while the server runs.")
    adapter_watch: Path | None = Field(
        None, description="Directory whose subdirectories are adapters; kept in step with while the server runs.")
    reconcile_s: float = Field(
        5, gt=0, description="Seconds between looks at --adapter-manifest and --adapter-watch.")
    state_file: Path | None = Field(
        None, description="File that remembers what is registered over a restart; without one nothing is.")
    policies: dict[str, Policy] = Field(
        default_factory=dict,
        description="What adapters' requests may take, as JSON: id to weight, max_running, max_waiting, "
        "tokens_per_minute, pinned. '*' is for all other ids, '' for the base.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N; auto takes CUDA where there is one.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto is bfloat16 on CUDA and on CPUs that have it, else float32.")
    kernels: Literal["auto", "torch", "triton"] = Field(
        "auto", description="auto takes Triton's kernels on CUDA and the C++ ones on x86-64 CPUs where they can run "
        "the base; torch neither. triton on a CPU needs Triton's interpreter.")
    attention: Literal["auto", "triton", "flashinfer"] = Field(
        "auto", description="Attention of the Triton kernels: auto is triton; flashinfer needs the package "
        "flashinfer-python and takes 16-bit dtypes, without CUDA graphs.")
    cuda_graphs: bool = Field(True, description="Capture decode steps as CUDA graphs at start, where they can be.")
    lora_overlap: bool = Field(
        False, description="Triton kernels: compute A x on a second stream beside the base's product.")
    weights: Literal["auto", "int8"] = Field(
        "auto", description="auto leaves the base's weights in dtype; int8 stores them in a byte each (CPU only).")
    compile: Literal["off", "elementwise"] = Field(
        "off", description="elementwise: torch.compile for norms and activations, where the C++ kernels do not run.")
    allow_row_dependence: bool = Field(
        False, description="Serve a quantised base whose rows influence each other in a step, such as LLM.int8.")
    threads: int = Field(0, ge=0, description="CPU threads of a step; 0 takes one per core.")
    max_running: int = Field(64, ge=1, description="Sequences in one step.")
    max_waiting: int = Field(512, ge=0, description="Sequences that may wait; more get RESOURCE_EXHAUSTED.")
    max_batch_tokens: int = Field(512, ge=1, description="Tokens in one step, decode rows and prefill chunks together.")
    max_context: int = Field(
        0, ge=0, description="Tokens of prompt and completion together; 0 is the base model's limit.")
    kv_block_size: int = Field(16, ge=1, description="Tokens per KV block; a multiple of 16 on CPU.")
    kv_cache_bytes: int = Field(
        0, ge=0, description="Bytes for the KV cache; 0 is 1 GiB on CPU, on CUDA what weights, steps and adapters "
        "leave.")
    device_memory_fraction: float = Field(
        0.9, gt=0, le=1, description="Part of a CUDA device's memory that everything together may take.")
    prefix_caching: bool = Field(True, description="Reuse the KV of prompt prefixes.")
    max_adapters: int = Field(
        64, ge=0, description="Adapter slots: versions on the device at once; 0 serves the base alone.")
    adapter_device_bytes: int = Field(
        0, ge=0, description="Bytes that all adapter slots may take together; 0 is no limit but --max-adapters on CPU, "
        "on CUDA a fifth of what weights and steps leave.")
    adapter_host_bytes: int = Field(
        2 << 30, ge=0, description="Bytes of host memory for adapters that are not in a slot.")
    adapter_load_threads: int = Field(16, ge=1, description="Adapters that are fetched and read at once.")
    adapter_cache_dir: str = Field(
        "", description="Where fetched adapters are kept, by content; empty is the user's cache.")
    adapter_cache_bytes: int = Field(
        0, ge=0, description="Bytes of fetched adapters that stay on disk beside those in use; 0 is no limit.")
    adapter_versions_kept: int = Field(2, ge=0, description="Older versions of an adapter that a rollback can go to.")
    max_added_tokens: int = Field(
        64, ge=0, description="Tokens that an adapter may add behind the base's vocabulary.")
    priority_aging_s: float = Field(10, gt=0, description="Seconds of waiting that count as one step of priority.")
    max_adapter_bytes: int = Field(2 << 30, ge=1, description="Largest adapter file accepted, in bytes.")
    tensor_parallel: int = Field(
        1, ge=1, description="Processes that share the base, each with a part of it: one per CUDA device, see "
        "docs/parallel.md.")
    trust_hub: bool = Field(False, description="Let --base be a hub id that is fetched over the network.")
    auth_file: Path | None = Field(
        None, description="YAML file of bearer tokens' hashes and scopes, see docs/security.md; without one anyone who "
        "reaches the port may call everything.")
    tls_cert: Path | None = Field(None, description="PEM file with the server's certificate chain; turns TLS on.")
    tls_key: Path | None = Field(None, description="PEM file with the private key of --tls-cert.")
    tls_client_ca: Path | None = Field(
        None, description="PEM file with the authorities that clients' certificates must come from (mutual TLS).")
    health_port: int = Field(
        0, ge=0, le=65535, description="Port for health checks alone, without TLS, for probes that cannot speak it; "
        "0 leaves them on --port only.")
    max_message_bytes: int = Field(4 << 20, ge=1024, description="Largest gRPC message accepted or sent, in bytes.")
    keepalive_s: float = Field(30, gt=0, description="Seconds between keepalive pings on an idle connection.")
    drain_s: float = Field(30, ge=0, description="Seconds that running requests get to finish after SIGTERM.")
    metrics_adapter_labels: int = Field(
        100, ge=0, description="Adapters with a metrics label of their own; later ones count as 'other'.")
    log_format: Literal["json", "console"] = Field("json", description="Form of log lines on standard error.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level logged.")

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
        """The engine's part. Raises ValueError for values that contradict each other."""
        from lora_runtime import EngineConfig  # imports torch: only where an engine is wanted

        names = EngineConfig.__dataclass_fields__
        return EngineConfig(**{name: getattr(self, name) for name in names})

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags arrive as `init`; the YAML file is named by `load`."""
        file_settings = YamlConfigSettingsSource(settings_cls, yaml_file=cls.model_config.get("yaml_file"))
        return init_settings, env_settings, file_settings


class SettingsError(Exception):
    """The settings are wrong; the message names each field."""


def load(flags: dict[str, Any], config_file: Path | None = None) -> Settings:
    """Merge all sources. Raises SettingsError."""
    if config_file is not None and not config_file.is_file():
        raise SettingsError(f"config file {config_file} does not exist")

    class FromFile(Settings):
        model_config = SettingsConfigDict(env_prefix="LORAMUX_", extra="forbid", yaml_file=config_file)

    try:
        settings = FromFile(**{k: v for k, v in flags.items() if v not in (None, [], {})})
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()]
        raise SettingsError("; ".join(problems)) from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise SettingsError(f"config file {config_file} is not a YAML mapping: {error}") from error
    try:
        settings.engine_config()
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return settings
