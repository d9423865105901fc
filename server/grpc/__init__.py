"""What every gRPC call goes through: told of at its begin and end, held to limits; reflection.

May import: errors, lora_runtime, request_ids, tracing.
"""
