"""Short names of architectures, as folders and charts show them."""

from __future__ import annotations

import pytest

from fgbench.architectures import short_name


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("mlp", "mlp"),
        ("path/to/own.py:build", "own.build"),
        ("own.v2.py:build", "own.v2.build"),
        ("fgbench.architectures.mlp:default_initialised", "mlp.default_initialised"),
        ("package:build", "package.build"),
        ("hf:GPT2LMHeadModel:n_layer=4", "GPT2LMHeadModel"),
        ("hf:GPT2LMHeadModel", "GPT2LMHeadModel"),
    ],
)
def test_a_short_name_tells_the_model_and_not_where_it_is(arch, name):
    assert short_name(arch) == name
