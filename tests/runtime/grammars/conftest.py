"""Fixtures: compilation of grammars, without an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lora_runtime import InvalidRequestError, StructuredAnswer
from lora_runtime.foreign.process import WORKERS, WorkLimits
from lora_runtime.grammars.compiler import GRAMMAR_BYTES, Grammars

from ...support.models import EOS, make_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="module")
def grammars() -> Iterator[Grammars]:
    use = WORKERS.use()
    made = Grammars({EOS}, WorkLimits(1.0, GRAMMAR_BYTES))
    yield made
    made.close()
    use.close()


@pytest.fixture
def compile_it(grammars: Grammars, tokenizer: Any) -> Callable[[StructuredAnswer], str]:
    """Compiles; gives why that is refused, or nothing."""

    def compile_it(answer: StructuredAnswer) -> str:
        try:
            grammars.compile(tokenizer, answer, "").result(60)
        except InvalidRequestError as error:
            (violation,) = error.violations
            assert violation.field == "structured"
            return violation.description
        return ""

    return compile_it
