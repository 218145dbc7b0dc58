"""Every registered dataset, whoever wrote it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fgbench import datasets
from fgbench.datasets import Dataset
from fgbench.datasets._torchvision import TorchvisionSource
from fgbench.datasets.digits import FILE
from fgbench.errors import UsageError
from fgbench.specs import registry
from fgbench.specs.options import canonical, options_of
from tests.builders import data_folder

NEEDS_A_FILE = {"text": f"text:path={__file__}"}  # any text will do
NAMES = [NEEDS_A_FILE.get(name, name) for name in registry.names("datasets")]
ALL = 10**9  # more than any validation split has


def loaded(name: str) -> Dataset:
    source = datasets.find(name)
    if isinstance(source, TorchvisionSource):
        if not (data_folder() / source.folder).is_dir():
            pytest.skip(f"{name} is not in {data_folder().name}/, and a test downloads nothing")
        pytest.importorskip("torchvision", exc_type=Exception)
    return datasets.load(name, data_folder(), ALL)


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    return request.param


def only_images(data: Dataset) -> None:
    if data.train_y.dim() > 1:
        pytest.skip("is a text: see datasets/test_text.py")


@pytest.fixture(scope="module")
def data(name) -> Dataset:
    """Loaded once: the tests of one dataset come after each other."""
    return loaded(name)


class TestEveryDataset:
    def test_is_the_same_twice(self, name, data):
        one, other = data, loaded(name)
        for field in ("train_x", "train_y", "validation_x", "validation_y"):
            assert torch.equal(getattr(one, field), getattr(other, field)), field

    def test_training_images_have_mean_0_and_deviation_1(self, data):
        only_images(data)
        images = data.train_x.double()
        assert float(images.mean()) == pytest.approx(0, abs=1e-4)
        assert float(images.std()) == pytest.approx(1, abs=1e-4)

    def test_validation_is_normalised_by_the_training_split(self, data):
        only_images(data)
        images = data.validation_x.double()
        assert abs(float(images.mean())) > 1e-7, "normalised by itself"
        assert abs(float(images.mean())) < 0.1
        assert float(images.std()) == pytest.approx(1, abs=0.1)

    def test_labels_are_class_indices_and_every_class_occurs(self, data):
        only_images(data)
        for labels in (data.train_y, data.validation_y):
            assert labels.dtype == torch.int64
            assert set(labels.tolist()) == set(range(data.classes))

    def test_shapes_agree(self, data):
        only_images(data)
        assert data.train_x.shape == (len(data.train_y), *data.in_shape)
        assert data.validation_x.shape == (len(data.validation_y), *data.in_shape)
        assert len(data.in_shape) == 3
        assert data.train_x.dtype == torch.float32

    def test_no_validation_image_is_a_training_image(self, data):
        known = {image.numpy().tobytes() for image in data.train_x}
        again = sum(image.numpy().tobytes() in known for image in data.validation_x)
        # Collections of real images hold a few exact duplicates of their own.
        assert again <= len(data.validation_x) * 0.01, again

    def test_canonical_spec_is_its_name_and_finds_it_again(self, name):
        source = datasets.find(name)
        assert canonical(name.split(":")[0], source) == name
        assert datasets.find(canonical(name.split(":")[0], source)) == source

    def test_says_what_it_is(self, name):
        source = datasets.find(name)
        assert source.summary
        assert all(option.help for option in options_of(type(source)))


def test_digits_are_scikit_learn_s_split_by_its_own_function():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data, whole = loaded("digits"), load_digits()
    assert (len(data.train_x), len(data.validation_x), data.in_shape) == (1437, 360, (1, 28, 28))
    train, held = train_test_split(range(1797), test_size=360, random_state=0, stratify=whole.target)
    with np.load(FILE) as file:
        assert np.array_equal(file["pixels"], whole.images[[*train, *held]])
    images = torch.tensor(whole.images, dtype=torch.float32)[:, None]
    images = torch.nn.functional.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    seen = datasets.load_whole("digits", data_folder()).raw
    assert torch.equal(seen[0], images[train])
    assert torch.equal(seen[2], images[held])
    assert data.train_y.tolist() == whole.target[train].tolist()
    assert data.validation_y.tolist() == whole.target[held].tolist()


def test_validation_size_cuts_the_held_out_set_to_its_first_samples():
    whole, cut = loaded("digits"), datasets.load("digits", data_folder(), 50)
    assert torch.equal(cut.validation_x, whole.validation_x[:50])
    assert torch.equal(cut.validation_y, whole.validation_y[:50])
    assert torch.equal(cut.train_x, whole.train_x)


def test_validation_size_0_is_refused():
    with pytest.raises(UsageError, match="--validation-size 0: must be at least 1"):
        datasets.load("digits", data_folder(), 0)


def test_synthetic_has_the_shape_asked_for():
    data = datasets.load("synthetic:shape=3x5x7,classes=4,samples=40", data_folder(), ALL)
    assert (data.in_shape, data.classes, len(data.train_x), len(data.validation_x)) == ((3, 5, 7), 4, 40, 10)


@pytest.mark.parametrize("shape", ["28x28", "1x0x3", "1x-2x3", "axbxc", "1x2x3x4", "x"])
def test_synthetic_refuses_a_shape_that_is_none(shape):
    with pytest.raises(UsageError, match=r"must be like 3x32x32"):
        datasets.load(f"synthetic:shape={shape}", data_folder(), 8)


def test_mnist_that_is_not_there_names_digits_in_one_line(tmp_path, monkeypatch):
    torchvision = pytest.importorskip("torchvision", exc_type=Exception)

    def no_network(*_args, **_options):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "MNIST", no_network)
    with pytest.raises(UsageError) as caught:
        datasets.load("mnist", tmp_path, 8)
    assert "--dataset digits" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_contents_are_known_by_a_hash_of_what_was_read_and_a_job_does_not_keep_it():
    whole = datasets.load_whole("digits", data_folder())
    again = datasets.load_whole("digits", data_folder())
    assert whole.contents == again.contents
    again.raw[2][0, 0, 3, 3] += 1  # one pixel, held out
    assert whole.contents != again.contents
    again = datasets.load_whole("digits", data_folder())
    again.raw[1][0] = (again.raw[1][0] + 1) % 10  # one label
    assert whole.contents != again.contents
    assert loaded("digits").raw == ()
