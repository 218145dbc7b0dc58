"""CIFAR-10 from files as torchvision lays them out: colours, order and split."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from fgbench import datasets

BATCHES, SAMPLES = 5, 20  # files, and images in each; 10 000 in the real ones
FILES = [*(f"data_batch_{i + 1}" for i in range(BATCHES)), "test_batch"]


@pytest.fixture
def pixels(tmp_path, monkeypatch):
    """Files of random images under `tmp_path`, of which the last one's are held out; gives the pixels,
    [file, sample, 3 · 32 · 32].
    """
    cifar = pytest.importorskip("torchvision.datasets.cifar", exc_type=Exception)
    monkeypatch.setattr(cifar, "check_integrity", lambda path, *_md5: Path(path).is_file())
    monkeypatch.setattr("fgbench.datasets._torchvision.HELD_OUT", SAMPLES)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    images = np.random.default_rng(0).integers(256, size=(len(FILES), SAMPLES, 3072), dtype=np.uint8)
    for name, data in zip(FILES, images, strict=True):
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": [i % 10 for i in range(SAMPLES)]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    return images


def test_the_last_training_images_are_held_out_and_the_test_images_stay_untouched(pixels, tmp_path):
    data = datasets.load("cifar10", tmp_path, validation_size=10**9)
    assert data.in_shape == (3, 32, 32)
    assert data.classes == 10
    raw = torch.from_numpy(pixels[:BATCHES]).reshape(BATCHES, SAMPLES, 3, 32, 32).float() / 255
    train, held = raw[:-1].flatten(0, 1), raw[-1]
    mean, deviation = train.mean(), train.std()
    assert torch.allclose(data.train_x, (train - mean) / deviation, atol=1e-5)
    assert torch.allclose(data.validation_x, (held - mean) / deviation, atol=1e-5)
    assert data.train_y.tolist() == [i % 10 for i in range(SAMPLES)] * (BATCHES - 1)
    assert data.validation_y.dtype == torch.int64


def test_pixels_stay_in_the_unit_interval_if_that_is_asked_for(pixels, tmp_path):
    data = datasets.load("cifar10:pixels=unit", tmp_path, validation_size=10**9)
    raw = torch.from_numpy(pixels[:BATCHES]).reshape(BATCHES, SAMPLES, 3, 32, 32).float() / 255
    assert torch.equal(data.train_x, raw[:-1].flatten(0, 1))
    assert torch.equal(data.validation_x, raw[-1])
    assert datasets.load_whole("cifar10:pixels=unit", tmp_path).contents == (
        datasets.load_whole("cifar10", tmp_path).contents
    ), "the same images"


def test_images_lie_in_memory_as_other_datasets_do(pixels, tmp_path):
    data = datasets.load("cifar10", tmp_path, validation_size=4)
    assert data.train_x.is_contiguous()
    assert data.validation_x.is_contiguous()
    assert data.validation_x.shape == (4, 3, 32, 32)
