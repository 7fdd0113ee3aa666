"""Files of tensors as torch reads and writes them."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch

from naflex_deploy.runtime.results.torch_file import torch_file


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.int64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5), (0, 7), (2, 1, 4), (300,), ()])
def test_torch_reads_what_was_written(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    expected = torch.randn(shape).mul(100).to(dtype)
    bits = expected.view(torch.uint16) if dtype == torch.bfloat16 else expected
    file = torch_file(bits.numpy(), str(dtype).removeprefix("torch."))
    found = torch.load(BytesIO(file), weights_only=True)
    assert (found.dtype, found.stride()) == (dtype, expected.contiguous().stride())
    assert torch.equal(found, expected)


def test_values_that_are_not_contiguous_or_of_the_other_byte_order() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    for stored in (values.T, values.astype(">f4"), values[:, ::2]):
        assert torch.load(BytesIO(torch_file(stored, "float32")), weights_only=True).tolist() == stored.tolist()


def test_a_type_without_a_name_is_an_error() -> None:
    with pytest.raises(KeyError, match="uint8"):
        torch_file(np.zeros(3, np.uint8))
