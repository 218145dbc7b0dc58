"""Architectures: `build(depth, width, in_shape, classes)` gives the model of a matched group."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from fgbench.errors import UsageError
from fgbench.specs import registry

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, ...]
Build = Callable[[int, int, Shape, int], "nn.Module"]

USER_DEPTH, USER_WIDTH = 2, 256  # defaults for a user's build function, the same as for mlp
IMAGES, TEXT = "images", "text"  # the kinds of data
NO_GRAPH = "does not require grad and does not have a grad_fn"  # torch's words
DIFFERENTIATES = (
    "the model differentiates in its own forward pass, as by torch.autograd.grad. fgbench cannot run it: the "
    "base and forward gradients keep no graph to differentiate."
)


@dataclass(frozen=True)
class Architecture:
    """A family of models.

    Attributes:
        build: (depth, width, in_shape, classes) → a module that maps images [batch, *in_shape], in_shape
            being [channels, height, width], to logits [batch, classes]; or tokens [batch, *in_shape],
            in_shape being [context], to logits of each next token [batch, context, classes].
        default_depth: the depth if `--depth` is not given.
        default_width: the width if `--width` is not given.
        summary: what it is and what depth and width mean, in one line.
        depths: the only depths that it has; empty if any depth from 1 on is possible.
        gpu_width: the default width on a GPU, which a narrower model would not keep busy; 0 for the same
            width as elsewhere.
        takes: `images` or `text`; empty if its build function checks that itself.
    """

    build: Build
    default_depth: int
    default_width: int
    summary: str
    depths: tuple[int, ...] = ()
    takes: str = IMAGES
    gpu_width: int = 0

    def width_on(self, device: str) -> int:
        """The width if `--width` is not given, on a device as torch names it."""
        return self.gpu_width if self.gpu_width and device.startswith("cuda") else self.default_width

    @property
    def depths_in_words(self) -> str:
        """Which depths there are, for a message to the user."""
        *most, last = map(str, self.depths or ("any",))
        return f"{', '.join(most)} or {last}" if most else last


HUGGING_FACE = "hf:"


def find(name: str) -> Architecture:
    """Find a registered architecture, or a user's own: `path/to/file.py:build` or `package.module:build`.

    `hf:GPT2LMHeadModel:n_layer=4` is Hugging Face's class with these options of its configuration.

    Raises:
        UsageError: there is no such architecture, file or function, or a user's file does not import.
    """
    if name.startswith(HUGGING_FACE):
        build = partial(_huggingface_model, name)
        return Architecture(build, 1, 1, summary=f"Hugging Face's {name[3:]}", takes="")
    if ":" not in name and name.endswith(".py"):
        raise UsageError(f"--arch {name}: name the function in it that builds the model, as in {name}:build.")
    return _user_architecture(name) if ":" in name else registry.find("architectures", name)


def short_name(name: str) -> str:
    """A name that tells models apart at a glance, in files and charts.

    Of a user's own it is the last part of its file or package with the function, as in `own.build`; of one of
    Hugging Face's its class.
    """
    if name.startswith(HUGGING_FACE):
        return name.split(":")[1]
    source, _, function = name.rpartition(":")
    last = Path(source).stem if source.endswith(".py") else source.rpartition(".")[2]
    return f"{last}.{function}" if source else name


def source_digest(name: str) -> str | None:
    """A hash of a user's file or module and all local ones that it imports; None for other architectures."""
    if ":" not in name or name.startswith(HUGGING_FACE):
        return None
    from fgbench.architectures._source import digest

    find(name)  # imports the module
    source, _, _ = name.rpartition(":")
    file = source if source.endswith(".py") else sys.modules[source].__file__
    return digest(Path(file)) if file else None


def build(name: str, depth: int, width: int, in_shape: Shape, classes: int) -> nn.Module:
    """Build a model and check it: its output for a batch of 2 must be [2, classes], or for text
    [2, context, classes].

    Raises:
        UsageError: the family does not have this depth or does not take this data, or the build function
            raises or returns something unsuitable; the message then names its file.
    """
    import torch

    architecture = find(name)
    if architecture.takes not in ("", kind := TEXT if len(in_shape) == 1 else IMAGES):
        raise UsageError(
            f"--arch {name} takes {architecture.takes}, and the dataset has {kind}: "
            + ("--arch transformer takes it." if kind == TEXT else "--dataset pydoc has text.")
        )
    if architecture.depths and depth not in architecture.depths:
        raise UsageError(
            f"--depth {depth}: the depth of {name} is {architecture.depths_in_words}; "
            "leave --depth out, or run it apart from the others."
        )
    try:
        with redirect_stdout(sys.stderr):  # standard output is reserved for the result
            model = architecture.build(depth, width, in_shape, classes)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{name}: build(depth={depth}, width={width}, in_shape={in_shape}, classes={classes}) "
            f"raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"{name}: build must give a torch.nn.Module, not {type(model).__name__}.")
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError(f"{name}: the model has no parameter that can be trained.")
    refuse_without_values(name, model)
    _check_output(name, model, in_shape, classes)
    return model


def refuse_without_values(name: str, model: nn.Module) -> None:
    """Refuse a model with parameters on the meta device, as of a module that lends others its shape.

    Raises:
        UsageError: it has one; `name` is what the message begins with.
    """
    without = next((own for own, p in model.named_parameters() if p.is_meta), "")
    if without:
        raise UsageError(
            f"{name}: the parameter {without} is on the meta device, and has no values: keep its module out "
            "of the model's parts, as in a list of one."
        )


def _check_output(name: str, model: nn.Module, in_shape: Shape, classes: int) -> None:
    import torch

    was_training = model.training
    model.eval()  # running statistics must not move before the run starts
    text = len(in_shape) == 1
    x = torch.zeros(2, *in_shape, dtype=torch.int64 if text else None)
    try:
        with torch.no_grad():
            output = model(x)
            x[1, -1] = 1
            later = model(x)
    except Exception as error:
        if NO_GRAPH in str(error):
            raise UsageError(f"{name}: {DIFFERENTIATES}") from error
        raise UsageError(
            f"{name}: the model fails on a batch of shape {(2, *in_shape)}: {type(error).__name__}: {error}"
        ) from error
    finally:
        model.train(was_training)
    got = tuple(getattr(output, "shape", ())) or type(output).__name__
    wanted = (2, *in_shape, classes) if text else (2, classes)
    if got != wanted:
        shape = "[batch, context, classes]" if text else "[batch, classes]"
        raise UsageError(f"{name}: the model must give {shape}, here {wanted}, not {got}.")
    if text and not torch.allclose(output[:, :-1], later[:, :-1], rtol=1e-3, atol=1e-4):
        raise UsageError(
            f"{name}: the model's output depends on the bytes that it has to predict; it must be causal."
        )


def _huggingface_model(spec: str, depth: int, width: int, in_shape: Shape, classes: int) -> nn.Module:
    from fgbench.architectures import _huggingface

    return _huggingface.build(spec, depth, width, in_shape, classes)


def _module_of_file(source: str) -> ModuleType:
    name = f"fgbench_user_{Path(source).stem}"
    module_spec = importlib.util.spec_from_file_location(name, source)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module  # dataclasses look up their module in sys.modules
    module_spec.loader.exec_module(module)
    return module


def _module_named(source: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:  # a worker's path has the current folder, an installed command's has not
        sys.path.append(here)
    return importlib.import_module(source)


def _user_architecture(spec: str) -> Architecture:
    source, _, function = spec.rpartition(":")
    try:
        if source.endswith(".py") and not Path(source).is_file():
            raise UsageError(f"--arch {spec}: there is no file {source}.")
        with redirect_stdout(sys.stderr):
            module = _module_of_file(source) if source.endswith(".py") else _module_named(source)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"--arch {spec}: {source} does not import: {type(error).__name__}: {error}"
        ) from error
    build = getattr(module, function, None)
    if not callable(build):
        raise UsageError(f"--arch {spec}: {source} has no function '{function}'.")
    return Architecture(build, USER_DEPTH, USER_WIDTH, summary=f"a user's own, {spec}", takes="")
