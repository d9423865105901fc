"""All that a request needs of text: chats rendered, grammars compiled, answers read as messages."""

from __future__ import annotations

import logging

from ..adapters.peft.tokenizer.ends import base_endings
from ..base_model import BaseModel
from ..config import EngineConfig
from ..foreign.process import WORKERS, WorkLimits
from ..grammars.compiler import GRAMMAR_BYTES, Grammars
from ..requests.prompts.lengths import TextLimit
from .chats import ForeignChats
from .messages import MessageParsers, notes_on_messages

log = logging.getLogger(__name__)


class Language:
    """Parts of one engine that work on text, on callers' threads and in workers."""

    def __init__(self, base: BaseModel, config: EngineConfig, limit: TextLimit) -> None:
        self.limit = limit
        self.chats = ForeignChats(base.tokenizer, config, limit)
        trial = WorkLimits(config.grammar_timeout_s, GRAMMAR_BYTES)
        self.grammars = Grammars(base.eos_token_ids, trial)
        self.grammars.get_ready(base.tokenizer)
        self.parsers = MessageParsers(config)
        if getattr(base.tokenizer, "response_template", None):
            WORKERS.start()  # before the first answer comes
        ends = base_endings(base.tokenizer, base.eos_token_ids)
        self.turn_ends = ends.turns
        """Ends of turn of the base's chat template, beside its ends of a sequence."""
        self.notes = ends.notes + notes_on_messages(base.tokenizer)
        for note in self.notes:
            log.warning("%s", note)

    def stop_admitting(self) -> None:
        """Begin with nothing more; answers that come are read."""
        self.chats.close()
        self.grammars.close()

    def close(self) -> None:
        self.stop_admitting()
        self.parsers.close()
