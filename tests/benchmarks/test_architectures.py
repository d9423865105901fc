"""Every causal architecture of transformers is served as PEFT has it, or refused by name; and the
table in docs/guide/architectures.md says which."""

from __future__ import annotations

import math

import pytest
import torch
import transformers

from benchmarks.architectures.__main__ import check, kinds, wrong
from benchmarks.architectures.findings import Finding, Outcome
from benchmarks.architectures.page import PAGE, differences, renewed, version_of
from benchmarks.architectures.processes import survey_all
from benchmarks.architectures.reference import difference
from benchmarks.architectures.survey import survey
from benchmarks.architectures.tiny import UnbuildableError, tiny_model

# Some architectures end the process, others are never answered.
UNRELIABLE = """
import json, os, sys, time
from benchmarks.architectures.findings import Finding, Outcome
for line in sys.stdin:
    kind = line.strip()
    if kind == "crashing":
        os._exit(7)
    if kind == "hanging":
        time.sleep(600)
    print(json.dumps(Finding(kind, Outcome.SERVED, targets=("a",)).to_json()), flush=True)
"""


EMPTY = "".join(
    f"<!-- table {name} -->\nold\n<!-- end -->\n"
    for name in ("counts", "served", "refused", "unbuildable")
)


@pytest.fixture(scope="module")
def findings() -> list[Finding]:
    return survey_all(kinds())


@pytest.mark.slow
def test_every_architecture_is_as_peft_has_it_or_refused(findings: list[Finding]) -> None:
    assert wrong(findings) == []
    served = [f for f in findings if f.outcome is Outcome.SERVED]
    assert len(served) >= 80
    assert all(f.targets for f in served)


@pytest.mark.slow
def test_the_table_is_what_the_command_writes(findings: list[Finding]) -> None:
    if (written := version_of(PAGE.read_text())) != transformers.__version__:
        pytest.skip(f"the page is about transformers {written}: `make architectures` renews it")
    assert check(findings) == []


def test_an_architecture_is_surveyed_on_every_backend_that_takes_it() -> None:
    finding = survey("qwen3")
    assert (finding.outcome, finding.reason, finding.notes) == (Outcome.SERVED, "", ())
    assert set(finding.backends) >= {"torch"}
    assert {"q_proj", "down_proj", "embed_tokens", "lm_head"} <= set(finding.targets)


def test_a_refusal_is_no_defect() -> None:
    finding = survey("mamba")
    assert finding.outcome is Outcome.REFUSED
    assert "MambaForCausalLM" in finding.reason


def test_what_ends_its_process_is_a_defect_of_its_own() -> None:
    names = ["a", "crashing", "b"]
    found = survey_all(names, processes=1, worker=("-c", UNRELIABLE))
    assert [f.kind for f in found] == names
    assert [f.outcome for f in found] == [Outcome.SERVED, Outcome.WRONG, Outcome.SERVED]
    assert found[0].targets == ("a",)
    assert wrong(found) == ["crashing: crashes: the process ends with 7"]


def test_what_holds_its_process_is_a_defect() -> None:
    found = survey_all(["hanging"], processes=1, timeout_s=0.2, worker=("-c", UNRELIABLE))
    assert wrong(found) == ["hanging: hangs: nothing in 0.2 seconds"]


@pytest.mark.parametrize(
    ("tokens", "logprobs", "what"),
    [
        ([1, 0], [-0.1, -0.2], ""),
        ([1, 1], [-0.1, -1.7], "token 2 is 1, not 0"),
        ([1, 0], [-0.1, -0.3], "token 2 has another probability"),
        ([1, 0], [-0.1, math.nan], "token 2 has another probability"),
    ],
)
def test_answers_are_compared(tokens: list[int], logprobs: list[float], what: str) -> None:
    expected = torch.tensor([[-2.4, -0.1], [-0.2, -1.7]])
    assert difference(expected, tokens, logprobs) == what


def test_a_reference_that_is_no_number_equals_nothing() -> None:
    assert difference(torch.full((1, 2), math.nan), [1], [math.nan])


def test_tiny_models_have_layers_of_each_kind() -> None:
    config = tiny_model("gemma3_text").config
    assert config.layer_types == ["sliding_attention", "full_attention"]
    assert config.sliding_window < 20


def test_an_architecture_without_a_tiny_model_says_why() -> None:
    with pytest.raises(UnbuildableError, match="KeyError"):
        tiny_model("none of transformers'")


def test_the_page_has_a_row_for_each() -> None:
    page = renewed(
        EMPTY,
        [
            Finding("one", Outcome.SERVED, "", ("C++", "torch"), ("q_proj",), ("`x`: not so",)),
            Finding(
                "two",
                Outcome.REFUSED,
                f"differ by 1.3e+00 (limit 1e-04) in decode\nrows, {'on and on ' * 30}",
            ),
            Finding("three", Outcome.UNBUILDABLE, "a < b"),
        ],
    )
    assert "| `one` | C++, torch | `q_proj` | `x`: not so |" in page
    assert "| `two` | differ, on and on" in page
    assert "| `three` | a &lt; b |" in page
    assert "old" not in page
    assert max(map(len, page.splitlines())) < 250
    assert version_of(page) == transformers.__version__


def test_a_table_that_is_not_what_was_found_is_shown() -> None:
    page = renewed(EMPTY, [Finding("one", Outcome.REFUSED, "as it was")])
    assert differences(page, [Finding("one", Outcome.REFUSED, "as it was")]) == []
    said, *lines = differences(page, [Finding("one", Outcome.REFUSED, "as it is")])
    assert "make architectures" in said
    assert lines[-2:] == ["-| `one` | as it was |", "+| `one` | as it is |"]
