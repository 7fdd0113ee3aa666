"""What a JSON body may cost: bounds that no honest request meets, and a scan that agrees with Python's parser."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naflex_deploy.serving.http.problems import Problem
from naflex_deploy.serving.http.receiving import json_bounds
from naflex_deploy.serving.http.receiving.json_bounds import check_json, decode_base64

MANY = 1 << 20
texts = st.text(st.sampled_from('ab\\"/[{,:é\n7'), max_size=12)
values = st.recursive(
    st.none() | st.integers(-(10**12), 10**12) | texts,
    lambda part: st.lists(part, max_size=6) | st.dictionaries(texts, part, max_size=4),
    max_leaves=40,
)


def marks(value: object) -> dict[bytes, int]:
    """Commas, arrays, objects and keys of a value, counted in what Python makes of it."""
    found = dict.fromkeys((b",", b"[", b"{", b":"), 0)
    if isinstance(value, list | dict):
        found[b"{" if isinstance(value, dict) else b"["] += 1
        found[b","] += max(0, len(value) - 1)
        found[b":"] += len(value) if isinstance(value, dict) else 0
        for part in value.values() if isinstance(value, dict) else value:
            for mark, count in marks(part).items():
                found[mark] += count
    return found


@given(values, st.booleans(), st.sampled_from([3, 64]))
def test_marks_are_counted_outside_of_texts_alone(value, ascii_only, piece):
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    expected = marks(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_bounds, "_PIECE", piece)
        patch.setattr(json_bounds, "MOST", {mark: (count, "marks") for mark, count in expected.items()})
        check_json(body, MANY)
        for mark, count in expected.items():
            if count:
                patch.setattr(json_bounds, "MOST", {mark: (count - 1, "marks")})
                with pytest.raises(Problem, match="marks"):
                    check_json(body, MANY)


@pytest.mark.parametrize(
    ("bound", "most", "body", "what"),
    [
        ("OUTSIDE", 20, b'{"a": 1,              "b": 2}', "bytes outside"),
        ("ESCAPES", 2, b'"\\n\\n\\n"', "backslashes"),
        ("FOREIGN", 5, '"ééé"'.encode(), "not all of them are ASCII"),
        ("TEXTS", 1, b'{"a": "b", "c": "d\\"", "e": [1]}', "at most 4 texts"),
        ("DIGITS", 5, b"[123456]", "numbers of at most 5 digits"),
    ],
)
def test_each_bound_is_met_by_its_own_excess(monkeypatch, bound, most, body, what):
    check_json(body, 0)
    monkeypatch.setattr(json_bounds, bound, most)
    with pytest.raises(Problem, match=what) as caught:
        check_json(body, 0)
    assert (caught.value.status, caught.value.reason) == (413, "body_too_large")


def test_texts_of_images_count_nothing():
    image = base64.b64encode(b"\xd3\x4d\x34" * 100_000)  # base64 of zeros alone
    assert image.startswith(b"0000")
    check_json(b'{"input": ["data:image/png;base64,' + image + b'", "' + image + b'"]}', 1)


@given(st.binary(max_size=200), st.text("A=é/-_", max_size=3), st.integers(0, 300), st.sampled_from([4, 16, 1 << 16]))
def test_base64_is_decoded_in_pieces_as_at_once(content, extra, at, piece):
    text = base64.b64encode(content).decode()
    text = text[:at] + extra + text[at:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_bounds, "_PIECE", piece)
        try:
            expected = base64.b64decode(text, validate=True)
            if not text or len(text) % 4:
                raise ValueError("nothing, or padding behind whole groups")
        except ValueError:
            with pytest.raises(ValueError, match=r"."):
                decode_base64(text)
        else:
            assert decode_base64(text) == expected
