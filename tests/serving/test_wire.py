"""What decoding a message of gRPC may cost, on messages that protobuf itself has encoded."""

from __future__ import annotations

from contextlib import suppress

import pytest
from google.protobuf.struct_pb2 import ListValue, Struct
from hypothesis import given
from hypothesis import strategies as st

from naflex_deploy.serving.grpc.wire import FIELDS, INFER, NUMBERS, check_message
from naflex_deploy.serving.http.problems import Problem

ENTRIES: dict = {1: {2: {}}}
LISTS: dict = {1: {}}
VALUES = st.none() | st.booleans() | st.floats() | st.text(max_size=200)


def field(number: int, content: bytes) -> bytes:
    """A field with a length, which is below 2 ** 28."""
    size = len(content)
    lengths = [size >> shift & 127 | 128 for shift in (0, 7, 14)]
    return bytes([number << 3 | 2, *lengths, size >> 21]) + content


@given(
    st.dictionaries(st.text(max_size=3), st.none() | st.booleans() | st.floats() | st.text(max_size=200), max_size=30)
)
def test_messages_of_protobuf_pass(content):
    message = Struct()
    for name, value in content.items():
        message.fields[name].SetInParent()
        if value is not None:
            message[name] = value
    check_message(message.SerializeToString(), ENTRIES)


@given(st.binary(max_size=60))
def test_any_bytes_pass_or_are_refused_by_name(content):
    for nested in (INFER, ENTRIES):
        with suppress(Problem):
            check_message(content, nested)


@pytest.mark.parametrize("more", [0, 1])
def test_fields_are_counted_in_nested_messages_too(more):
    message = ListValue()
    for _ in range(FIELDS // 2 + more):
        message.values.add().bool_value = True  # a field, and the one in it
    content = message.SerializeToString()
    if more:
        with pytest.raises(Problem, match="at most 4096 fields"):
            check_message(content, LISTS)
    else:
        check_message(content, LISTS)


@pytest.mark.parametrize(("path", "bounded"), [((5, 3), True), ((5, 5, 4), True), ((7,), False), ((5, 5, 8), False)])
def test_lists_of_numbers_are_bounded_and_bytes_are_not(path, bounded):
    for size in (NUMBERS, NUMBERS + 1):
        content = bytes(size)
        for number in reversed(path):
            content = field(number, content)
        if bounded and size > NUMBERS:
            with pytest.raises(Problem, match="raw_input_contents"):
                check_message(content)
        else:
            check_message(content)


def test_a_message_that_is_cut_off_is_refused():
    content = field(5, field(1, b"pixels") + field(3, b"\x01\x02"))
    check_message(content)
    for end in range(1, len(content)):
        with pytest.raises(Problem, match="damaged"):
            check_message(content[:end])
