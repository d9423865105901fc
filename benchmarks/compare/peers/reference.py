"""Judge every system's tokens by the model itself: transformers and PEFT in float32, fed those
tokens.

Greedy texts of two correct systems part for good at the first near-tie, so equal leading tokens say
little about the rest. This looks at each token by itself: how far, in logits, is it below the
reference's best one at its place?

Started as a peer is, with JOB_FILE RESULT_FILE; the job's `outputs` are, by system, the tokens of
the first requests.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def load(job: dict[str, Any]) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    used = sorted(set(job["assigned"]) - {""})
    for i, name in enumerate(used):
        path = job["adapters"][name]
        if i == 0:
            model = PeftModel.from_pretrained(model, path, adapter_name=name)
        else:
            model.load_adapter(path, adapter_name=name)
    return model.eval()


@torch.inference_mode()
def gaps(model: Any, prompt: list[int], output: list[int], adapter: str) -> list[float]:
    """For each output token: the best logit at its place minus its own."""
    if adapter:
        model.set_adapter(adapter)
    # The last token is not fed: nothing comes after it.
    ids = torch.tensor([prompt + output[:-1]])
    logits = model(input_ids=ids, logits_to_keep=len(output)).logits[0]
    chosen = logits.gather(1, torch.tensor(output)[:, None])[:, 0]
    return [float(g) for g in logits.max(dim=1).values - chosen]


def main() -> None:
    job_file, result_file = (Path(a) for a in sys.argv[1:3])
    job = json.loads(job_file.read_text())
    torch.set_num_threads(len(job["cores"]))
    model = load(job)
    known: dict[str, list[float]] = {}

    def judge(request: int, output: list[int]) -> list[float]:
        key = f"{request} {output}"  # systems often agree: judge equal outputs once
        if key not in known:
            known[key] = gaps(model, job["prompts"][request], output, job["assigned"][request])
        return known[key]

    found = {
        system: [gap for i, output in enumerate(outputs) for gap in judge(i, output)]
        for system, outputs in job["outputs"].items()
    }
    result_file.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
