"""Texts: bytes in windows, the end held out, and every file that is none named in one line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from fgbench import datasets
from fgbench.errors import UsageError


def load(spec: str):
    return datasets.load_whole(spec, Path("nowhere"))


@pytest.fixture
def book(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text("".join(random.Random(0).choices("abcdefg ", k=1000)))
    return file


def test_targets_are_the_next_byte_and_windows_cover_the_text_once(book):
    data, text = load(f"text:path={book},context=10"), book.read_bytes()
    assert data.in_shape == (10,)
    assert data.train_x.dtype == data.train_y.dtype == torch.int64
    for index in (0, 7, len(data.train_x) - 1):
        start = 10 * index
        assert bytes(data.train_x[index].tolist()) == text[start : start + 10]
        assert bytes(data.train_y[index].tolist()) == text[start + 1 : start + 11]


def test_the_end_is_held_out_and_shares_no_byte_with_training(book):
    data, text = load(f"text:path={book},context=10"), book.read_bytes()
    assert bytes(data.validation_x.flatten().tolist()) == text[900:][: data.validation_x.numel()]
    assert len(data.train_y) * 10 + 1 <= 900, "the last target of training is before what is held out"


def test_halves_share_nothing_and_are_the_text(book):
    first, second = (load(f"text:path={book},context=10,part={part}") for part in ("first", "second"))
    assert bytes(first.raw[0].tolist()) + bytes(second.raw[0].tolist()) == book.read_bytes()


def test_pydoc_is_the_language_reference_and_its_hash_is_that_of_its_text():
    from pydoc_data.topics import topics

    data = load("pydoc")
    assert data.raw[0].numel() > 300_000
    assert topics["yield"].encode()[:40] in bytes(data.raw[0].tolist())
    assert data.classes == 256
    assert data.contents == load("pydoc:context=64").contents != load("pydoc:part=first").contents


def test_a_longer_context_makes_fewer_samples_of_the_same_bytes():
    short, long = load("pydoc:context=128"), load("pydoc:context=2048")
    assert len(short.train_x) >= 15 * len(long.train_x)
    assert len(long.train_x) >= 100


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read \\(No such file"),
        (b"", "0 bytes are too few"),
        (b"too short", "9 bytes are too few"),
        (b"\xff\xfe" * 500, "is not UTF-8, byte 0"),
    ],
)
def test_a_file_that_is_no_text_is_refused_in_one_line(tmp_path, content, said):
    file = tmp_path / "some.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        load(f"text:path={file}")
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_no_file_is_refused_with_an_example():
    with pytest.raises(UsageError, match=r"text:path=book\.txt"):
        load("text")


def test_a_folder_is_refused_in_one_line(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load(f"text:path={tmp_path}")


def test_tokens_stay_whole_numbers_on_a_device():
    data = load("pydoc").to(torch.device("cpu"), torch.bfloat16)
    assert data.train_x.dtype == torch.int64
