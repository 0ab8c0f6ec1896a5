"""Requests that make no sense: each is refused with one sentence, and none breaks the server."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.errors import UserError
from lib.prompts.dialects import parse

SHAPE = (96, 80, 40)


@pytest.mark.parametrize(
    ("request_", "start"),
    [
        ({"foreground": 5}, "foreground must be a list, not 5"),
        ({"foreground": "here"}, "foreground must be a list, not 'here'"),
        ({"foreground": {"i": 1}}, "foreground must be a list, not {"),
        ({"foreground": [1, 2, 3]}, "foreground[0] must be a list, not 1"),
        ({"foreground": [[1, 2, "3"]]}, "foreground[0] must be a finite number, not '3'"),
        ({"foreground": [[1, 2, True]]}, "foreground[0] must be a finite number, not True"),
        ({"foreground": [[1, 2, None]]}, "foreground[0] must be a finite number, not None"),
        ({"foreground": [[1, 2, float("nan")]]}, "foreground[0] must be a finite number, not nan"),
        ({"background": [[1, float("inf"), 3]]}, "background[0] must be a finite number, not inf"),
        ({"foreground": [[1, 2, 10**400]]}, "foreground[0] must be a finite number, not 1000"),
        ({"foreground": [[[1, 2, 3]]]}, "foreground[0] must be a finite number, not [1, 2, 3]"),
        ({"foreground": [[1]]}, "foreground[0] must be [i, j, k] or, on one slice, [x, y], not [1]"),
        ({"foreground": [[1, 2, 3, 4]]}, "foreground[0] has 4 entries"),
        ({"foreground": [[1, 2, 3]] * 1001}, "foreground has 1001 entries, more than the 1000 allowed"),
        ({"points": [[1, 2, 1]]}, "points[0] [1, 2] has no slice"),
        ({"points": [[1, 2, 3, 2]]}, "points[0] must be [i, j, k, 1 or 0]"),
        ({"points": [[]]}, "points[0] must be [i, j, k, 1 or 0]"),
        ({"roi": [1, 2, "3", 4, 5, 6]}, "roi must be a finite number, not '3'"),
        ({"boxes": [1, 2, 3, 4, 5, 6]}, "boxes[0] must be a list, not 1"),
        ({"boxes": [[1, 2, 3]]}, "boxes[0] must be [i0, j0, k0, i1, j1, k1]"),
        ({"boxes": [{"low": [1, 1, 1]}]}, "boxes[0] must have low and high"),
        ({"objects": {"label": "a"}}, "objects must be a list"),
        ({"objects": [[1, 2, 3]]}, "objects[0] must be an object"),
        ({"objects": [{"foreground": [[1, 1, 1]]}] * 101}, "objects has 101 entries, more than the 100"),
        ({"foreground": [[1, 1, 1]], "label": 3}, "label must be a name of at most 100 characters, not 3"),
        ({"foreground": [[1, 1, 1]], "label": "a\nb"}, "label must be a name"),
        ({"foreground": [[1, 1, 1]], "label": "x" * 101}, "label must be a name"),
        ({"foreground": [[1, 1, 1]], "direction": "up"}, "direction must be one of both, forward, backward"),
        ({"foreground": [[1, 1, 1]], "direction": [1]}, "direction must be one of"),
        ({"foreground": [[1, 1, 1]], "slice_range": [1]}, "slice_range must be [first, last], not [1]"),
        ({"foreground": [[1, 1, 1]], "slice_range": [1, 2.5]}, "slice_range must be a whole number"),
        ({"foreground": [[1, 1, 1]], "slice_range": [9, 2]}, "slice_range [9, 2] must be the first and last"),
    ],
)
def test_junk_is_refused_with_the_field_and_the_value(request_, start):
    with pytest.raises(UserError) as caught:
        parse(request_, SHAPE, 2, 3)
    message = str(caught.value)
    assert message.startswith(start)
    assert message.endswith(".") and "\n" not in message and len(message) < 300


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


# Drawing nested JSON is slow at first, which says nothing about the code under test.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "foreground",
                "background",
                "points",
                "roi",
                "boxes",
                "mask",
                "objects",
                "label",
                "slice",
                "liver",
            ]
        ),
        json_values,
    ),
    st.sampled_from([2, 3]),
)
def test_whatever_json_comes_is_understood_or_refused_in_a_sentence(request_, dimension):
    try:
        parse(request_, SHAPE, 2, dimension, labels=("liver",))
    except UserError as error:
        assert str(error).endswith(".")
