"""Fields of any value at all: read, or refused by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .test_fields import FORMS, wrong

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("name", FORMS)
@given(data=st.data())
def test_anything_at_all_is_read_or_refused(name: str, data: st.DataObject) -> None:
    names = st.sampled_from(sorted(FORMS[name].by_name))
    body = data.draw(st.dictionaries(names, VALUES, max_size=4))
    wrong(name, **json.loads(json.dumps(body)))
