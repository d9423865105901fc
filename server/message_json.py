"""Messages as JSON has them: on the command line and over HTTP."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message


def to_dict(message: Message) -> dict[str, Any]:
    """Turn a message into a dict.

    Field names as in the .proto files; zeros and empty texts are shown.
    """
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
