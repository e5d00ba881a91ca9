"""The key of an engine: what it depends on, and how differences of it are named."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from json_values import json_values

from deepseek_serving.compile.key import Key, Target, Tensorrt, differences, summary


@given(st.dictionaries(st.text(max_size=4), json_values), st.randoms(use_true_random=False))
def test_the_key_depends_on_the_fields_alone(fields: dict[str, Any], random: Any) -> None:
    names = list(fields)
    random.shuffle(names)
    keys = [
        Key({}, None, None, part, Tensorrt("tensorrt", "11.0"), 13, "linux", Target("9.0", "H100"))
        for part in (fields, {name: fields[name] for name in names})
    ]
    assert keys[0].digest == keys[1].digest == hashlib.sha256(keys[0].to_bytes()).hexdigest()
    assert differences(fields, {name: fields[name] for name in names}) == []


@given(json_values, json_values)
def test_whatever_differs_is_named(before: Any, after: Any) -> None:
    found = differences({"field": before}, {"field": after})
    same = json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
    assert (found == []) == same
    assert all(line.startswith("field") for line in found)


def test_many_differences_are_counted() -> None:
    assert summary(["a", "b"]) == "a; b"
    assert summary([str(n) for n in range(9)]) == "0; 1; 2; 3; 4; 5; and 3 more fields"
