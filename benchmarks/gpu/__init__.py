"""What a GPU shows of loramux: `lease.py` runs what is in `stages/`, `session/` keeps what they
find.

Stages with more work than a page holds have a room of their own: `compiling/`, `peers/`,
`sweeping/`. `carry.py` gathers what a borrowed machine lacks, `oldest/` tries all of it with the
versions of one.

May import: common, gpu.compiling, gpu.session, gpu.stages, lora_runtime,
lora_runtime.adapters.peft, lora_runtime.backends, lora_runtime.backends.triton,
lora_runtime.engine, lora_runtime.kernels, lora_runtime.kernels.triton, lora_runtime.modules,
lora_runtime.scheduling.
"""
