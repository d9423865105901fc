"""loramux.v1: generated from the .proto files in this directory; do not edit."""
