"""Kinds of torch's functions, by what they do to a value that has tangents."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fgbench.pushforward.rules import of_names

# Functions that switch a mode of torch, and compute nothing.
SWITCHES = {torch._C._set_grad_enabled, torch.set_grad_enabled, torch.is_grad_enabled}
# Functions whose result never has tangents.
_STILL = """
    eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ isnan isinf isfinite logical_not logical_and
    logical_or logical_xor __invert__ argmax argmin argsort sign floor ceil round trunc floor_divide
    __floordiv__ __rfloordiv__ ones_like zeros_like full_like empty_like rand_like randn_like new_zeros
    new_ones new_full new_empty new_tensor bernoulli multinomial long int bool short count_nonzero detach
    size dim numel stride is_floating_point is_contiguous element_size is_complex ndimension nelement
    get_device __len__ item tolist __bool__ __int__ __float__ __index__ numpy equal allclose is_nonzero any
    all storage_offset data_ptr __hash__ __repr__ __format__ is_signed nonzero is_same_size result_type
    _nested_tensor_from_mask_left_aligned
"""
STILL = set(of_names(*_STILL.split()))
# Functions that hand values to Python, or shape results by them: other values may lead to another course.
_READS = """
    item tolist numpy __bool__ __int__ __float__ __index__ __complex__ __contains__ __array__ equal allclose
    is_nonzero nonzero argwhere unique unique_consecutive masked_select bincount tensor_split
"""
READS = set(of_names(*_READS.split())) | {torch._VF._pack_padded_sequence}
# Functions whose result depends on their arguments alone. A value that only such functions have made comes
# from shapes and numbers, so that it is the same for every batch of one shape.
_PLAIN = """
    arange ones zeros full eye eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ all any diff cumsum
    logical_not logical_and logical_or __invert__ __and__ __or__ __getitem__ add sub mul __add__ __radd__
    __sub__ __mul__ __rmul__ expand view reshape squeeze unsqueeze flatten tril triu long int bool to max min
    sum float double contiguous clone
"""
PLAIN = set(of_names(*_PLAIN.split()))
INDEXED, SPLIT = set(of_names("__getitem__", "__setitem__")), set(of_names("tensor_split"))
# Functions that may give their first argument itself, as a cast to the dtype that it has.
_ITSELF = "to type type_as float double half bfloat16 cpu cuda contiguous"
ITSELF = set(of_names(*_ITSELF.split()))
# Attributes that are the same for every value with tangents.
OF_ITSELF = {"requires_grad": True, "is_leaf": False, "grad": None, "grad_fn": None, "_base": None}
TURNED = {"T", "mT", "H", "mH", "real", "imag"}


def deciding(func: Any, args: Any, kwargs: Any) -> Any:
    """Of a function that looks at values, the arguments whose values decide what it gives, or its shape.

    An index that is a mask decides that; but one that no function of the course has made belongs to the
    model, and is the same at every call.
    """
    if func is F.one_hot and (args[1] if len(args) > 1 else kwargs.get("num_classes", -1)) != -1:
        return ()  # it only checks values
    if func in SPLIT:
        return args[1:], kwargs
    if func not in INDEXED:
        return args, kwargs
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    ends = [end for part in index if isinstance(part, slice) for end in (part.start, part.stop, part.step)]
    return [part for part in index if isinstance(part, Tensor) and hasattr(part, "mark")], ends
