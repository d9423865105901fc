"""What `make gpu-check` runs: tests, float64 references, and benchmarks beside the machine's own limits."""
