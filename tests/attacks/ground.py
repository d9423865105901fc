"""What all servers under attack stand on: a tiny base, adapters, tokens, registrations."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ..support.adapters import save_adapter
from ..support.models import TEMPLATE, save_base
from ..support.tokens import write_tokens
from .server import ROOT, ServerProcess

CONTEXT = 4096
VOCAB = 2000
BOS, EOS = 0, 1
COLD = 3000
"""Registered ids that nobody has asked for."""
CALLERS: dict[str, dict[str, Any]] = {
    "operator": {"adapters": ["*"], "admin": True},
    "neighbour": {"adapters": ["base", "good"], "read": False},
    "attacker": {"adapters": ["base", "mal-*", "team-a-*"]},
    "team-a": {"adapters": ["team-a-*"], "admin": True},
    "sharer": {"adapters": ["*"], "admin": True, "shares": True},
}


@dataclass(frozen=True)
class Ground:
    """Directories and files."""

    directory: Path
    base: Path
    root: Path
    tokens: Path

    @classmethod
    def make(cls, directory: Path) -> Ground:
        base = save_base(
            directory / "base",
            vocab_size=VOCAB,
            hidden_size=128,
            intermediate_size=256,
            max_position_embeddings=CONTEXT,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=EOS,
        )
        trained_tokenizer().save_pretrained(base)
        root = directory / "root"
        save_adapter(base, root / "good", seed=1)
        return cls(directory, base, root, write_tokens(directory / "tokens.yaml", **CALLERS))

    def serve(self, *args: object, **more: Any) -> ServerProcess:
        """Start a server; it has the adapter good, and many others that are cold."""
        return ServerProcess(
            self.directory,
            self.base,
            *("--adapter-root", self.root, "--adapter", f"good={self.root / 'good'}"),
            *("--auth-file", self.tokens, "--max-adapters", 8),
            *args,
            **more,
        )

    def state(self) -> Path:
        """A state file with the cold registrations."""
        good = str(self.root / "good")
        path = self.directory / "state.json"
        adapters = [
            {
                "adapter_id": f"cold-{i:05}",
                "versions": [{"version": f"{i:064x}", "source": good, "directory": good}],
                "canary": None,
                "canary_weight": 0.0,
                "policy": None,
            }
            for i in range(COLD)
        ]
        path.write_text(json.dumps({"format": 1, "declared": {}, "adapters": adapters}))
        return path

    def adapter(self, name: str, make: Callable[[Path, Ground], None]) -> str:
        """A directory below the root, once; `make` writes what is hostile about it."""
        directory = self.root / name
        if not directory.exists():
            directory.mkdir()
            for file in ("adapter_config.json", "adapter_model.safetensors"):
                (directory / file).write_bytes((self.root / "good" / file).read_bytes())
            make(directory, self)
        return name


def trained_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained on this project's guides."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))]
    raw.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer
