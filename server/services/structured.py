"""Forms of structured answers, as messages have them."""

from __future__ import annotations

from loramux.v1 import inference_pb2 as pb

from lora_runtime import InvalidRequestError, StructuredAnswer


def to_structured(form: pb.StructuredAnswer) -> StructuredAnswer:
    """Form that a message asks for. Raises InvalidRequestError."""
    kind = form.WhichOneof("form")
    if kind is None:
        raise InvalidRequestError.of("structured", "has no form that is known here")
    if kind == "choice":
        return StructuredAnswer(kind, choices=tuple(form.choice.texts))
    return StructuredAnswer(kind, "" if kind == "json_object" else getattr(form, kind))
