"""One thread owns the device: requests come in, steps run, tokens go out."""
