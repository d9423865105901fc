"""Train the three demo adapters with PEFT: other ranks and other target modules each.

Runs a few minutes on two CPU cores. The weights are stored in bfloat16, under 1 MB each.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from demo_data import HELD_OUT, Row, json_rows, pirate_rows, sentiment_rows
from fetch_base import DEFAULT_TARGET
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

OUT = Path(__file__).parent / "adapters"
BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
UPPER_HALF = r".*layers\.(1[5-9]|2[0-9])\.self_attn\.(q|v)_proj"


@dataclass(frozen=True)
class Recipe:
    """One adapter: its data, rank, targets and training length."""

    rows: Callable[[], list[Row]]
    rank: int
    targets: list[str] | str
    epochs: int
    held_out: list[str] = field(default_factory=lambda: HELD_OUT)


RECIPES = {
    "pirate": Recipe(pirate_rows, 8, ["q_proj", "v_proj"], 12),
    "json": Recipe(json_rows, 4, ["q_proj", "k_proj", "v_proj", "o_proj"], 10),
    "sentiment": Recipe(sentiment_rows, 16, UPPER_HALF, 4,
                        ["I loved every minute of the trip!", "The soup was cold and the waiter rude.",
                         "The train leaves at nine."]),
}


def encode(tokenizer: Any, row: Row) -> tuple[list[int], list[int]]:
    """Ids of prompt and completion, and labels that count the completion only."""
    question, answer = row
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    completion = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return prompt + completion, [-100] * len(prompt) + completion


def collate(rows: list[tuple[list[int], list[int]]], pad: int) -> dict[str, torch.Tensor]:
    width = max(len(ids) for ids, _ in rows)
    return {
        "input_ids": torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows]),
        "labels": torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows]),
    }


def train(name: str, recipe: Recipe, base_dir: Path) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    base.name_or_path = BASE_NAME
    config = LoraConfig(
        r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules=recipe.targets, task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, config)
    rows = [encode(tokenizer, row) for row in recipe.rows()]
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-3, weight_decay=0.01)
    rng, size = random.Random(0), 8
    steps = recipe.epochs * -(-len(rows) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    model.train()
    for epoch in range(recipe.epochs):
        rng.shuffle(rows)
        losses = []
        for start in range(0, len(rows), size):
            loss = model(**collate(rows[start : start + size], tokenizer.pad_token_id)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            losses.append(float(loss))
        print(f"{name}: epoch {epoch + 1}/{recipe.epochs}, loss {sum(losses) / len(losses):.3f}", flush=True)
    save(model, OUT / name)
    show(model, tokenizer, recipe)


def save(model: PeftModel, out: Path) -> None:
    model.peft_config["default"].base_model_name_or_path = BASE_NAME
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:  # PEFT writes an empty card too: ours stays
        model.save_pretrained(scratch)
        tensors = load_file(Path(scratch) / "adapter_model.safetensors")
        config = json.loads((Path(scratch) / "adapter_config.json").read_text())
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    save_file(tensors, out / "adapter_model.safetensors", {"format": "pt"})
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def show(model: PeftModel, tokenizer: Any, recipe: Recipe) -> None:
    model.eval()
    for question in recipe.held_out:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**inputs, max_new_tokens=48, do_sample=False)
        print(f"  {question} → {tokenizer.decode(out[0, inputs['input_ids'].shape[1]:], skip_special_tokens=True)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(RECIPES)}; default: all")
    parser.add_argument("--base", type=Path, default=DEFAULT_TARGET)
    args = parser.parse_args()
    for name in args.names or RECIPES:
        train(name, RECIPES[name], args.base)


if __name__ == "__main__":
    main()
