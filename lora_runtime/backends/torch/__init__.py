"""transformers' forward with torch's kernels."""
