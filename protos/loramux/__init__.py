"""Generated gRPC code of the loramux API."""
