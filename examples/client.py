"""A Python client for a running server (`make serve`): a unary call, a stream, and an error."""

from __future__ import annotations

import argparse

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from loramux.v1 import inference_pb2, inference_pb2_grpc


def unary(stub: inference_pb2_grpc.InferenceStub, question: str) -> None:
    request = inference_pb2.GenerateRequest(adapter_id="pirate", max_new_tokens=40)
    request.messages.add(role="user", content=question)
    answer = stub.Generate(request, timeout=60)
    choice = answer.choices[0]
    print(f"pirate ({answer.adapter_version[:12]}): {answer.text}")
    print(
        f"  {choice.usage.completion_tokens} tokens, prefill {choice.timings.prefill_s * 1e3:.0f} ms, "
        f"decode {choice.timings.decode_s * 1e3:.0f} ms"
    )


def stream(stub: inference_pb2_grpc.InferenceStub, question: str) -> None:
    request = inference_pb2.GenerateRequest(max_new_tokens=40, temperature=0.7, top_p=0.9, seed=1)
    request.messages.add(role="user", content=question)
    print("base, sampled: ", end="")
    for event in stub.GenerateStream(request, timeout=60):
        print(event.text, end="", flush=True)
    print()


def unknown_adapter(stub: inference_pb2_grpc.InferenceStub) -> None:
    """Show that an unknown adapter is an error, never the base model's output."""
    try:
        stub.Generate(inference_pb2.GenerateRequest(adapter_id="no-such-adapter", prompt="hi"))
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        info = error_details_pb2.ResourceInfo()
        status.details[0].Unpack(info)
        print(f"{error.code().name}: {info.resource_type} {info.resource_name!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", nargs="?", default="What is the capital of France?")
    parser.add_argument("--target", default="127.0.0.1:50051")
    args = parser.parse_args()
    with grpc.insecure_channel(args.target) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        unary(stub, args.question)
        stream(stub, args.question)
        unknown_adapter(stub)


if __name__ == "__main__":
    main()
