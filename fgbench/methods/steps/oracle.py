"""Correctness before speed: a step is checked against reverse mode before it is timed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from fgbench.methods import PLAIN, Batch, Conditions, Loss, Method, Step, prepare, trainable
from fgbench.methods.steps.masks import masks_by_index
from fgbench.methods.steps.optimizer import PLAIN_SGD, make_optimizer, optimize
from fgbench.pushforward.context import state_kept
from fgbench.pushforward.precision import PrecisionsMet
from fgbench.training.randomness import OwnRandomness

# The largest relative error of an estimate, by the lowest dtype used in computing it. Wrong code has
# relative errors of about 1.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
TF32 = TOLERANCE[torch.float16]  # TF32 has as many bits in a product's factors as float16
# With a tangent nearly orthogonal to the gradient little but rounding is left; other tangents then decide.
TRIES = 3
REPLAYS = 2  # how many replays of a captured step are checked: the first may repeat what was captured
SAME_DIRECTION = 0.9999  # two updates with a cosine above this had the same tangents
SMALLEST = 1e-300  # avoids a division by zero
UNTRAINED = (
    "no gradient reaches any parameter of the model, as where its forward detaches them, which "
    "torch.func.stack_module_state does and torch.stack does not. It was not timed."
)


class WrongStepError(Exception):
    """The loss or the estimate of a step is wrong; the message says by how much."""


def check_step(
    method: Method,
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    seed: int,
    conditions: Conditions = PLAIN,
    during: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Check one step, exactly as it will be timed, against reverse mode at the same weights.

    The step must report the true loss, and must change the weights by the estimate that `Step.expected`
    derives from the true gradient. What `during` gives is in force while reverse mode runs.

    Raises:
        WrongStepError: it fails in each of a few tries with different random numbers.
    """
    errors = []
    for by_index in (False, True):  # the order of masks: in memory, and of indices
        if by_index and (conditions.compiled or not _is_itself_by_index(model, loss, batch, seed)):
            break
        for attempt in range(TRIES):
            error, tolerance = _error_of_step(
                method, model, loss, batch, seed + attempt, conditions, by_index, during
            )
            if error <= tolerance:
                return
            errors.append(error)
    raise WrongStepError(
        f"its loss or its update is off by a share of {min(errors):.2g} from what reverse mode gives, and "
        f"rounding explains at most {tolerance:g}. It was not timed."
    )


def _is_itself_by_index(model: nn.Module, loss: Loss, batch: Batch, seed: int) -> bool:
    """Whether masks by index leave all as it is but masks.

    PyTorch 2.14 loses the weight of `l1_loss` where a function mode is in force, as that of these masks is.
    """
    losses = []
    for by_index in (False, True):
        own = copy.deepcopy(model)
        for module in own.modules():
            _without_dropout(module)
        with _same_masks(seed, batch, own, by_index), torch.no_grad():
            losses.append(float(loss(own(batch[0]), batch[1])))
    return math.isclose(*losses, rel_tol=TOLERANCE[torch.float32])


def check_base(evaluate: Loss, model: nn.Module, loss: Loss, batches: Sequence[Batch], seed: int) -> None:
    """Check the base, as it will be timed, against the loss.

    A second batch is checked too, as a CUDA graph might repeat the loss of the first one.

    Raises:
        WrongStepError: the base gives another loss.
    """
    for x, y in batches[:REPLAYS]:
        with _same_masks(seed, (x, y), model):
            value = evaluate(x, y)
        with _same_masks(seed, (x, y), model), torch.no_grad():
            true = loss(copy.deepcopy(model)(x), y)
        error = abs(float(value) - float(true)) / max(abs(float(true)), SMALLEST)
        if not error <= _tolerances(x.device)[true.dtype]:
            raise WrongStepError(f"the base's loss is off by a share of {error:.2g}. It was not timed.")


def _error_of_step(
    method: Method,
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    seed: int,
    conditions: Conditions,
    by_index: bool,
    during: Callable[[], AbstractContextManager[None]],
) -> tuple[float, float]:
    """The relative error of a step, and the tolerance for it.

    The error is the largest among the replays of a captured step, or in a cycle of steps that differ in kind.
    With `by_index` the step and reverse mode drop units in the order of their indices, not of memory.
    """
    model = _within_norms(model)
    trained = copy.deepcopy(model)
    step = prepare(method, trained, loss, seed, conditions)
    if step.masks_of_its_own:
        model = copy.deepcopy(model)
        for module in (*trained.modules(), *model.modules()):
            _without_dropout(module)
    with during(), PrecisionsMet() as precisions:
        true_loss, gradient = _reverse_mode(copy.deepcopy(model), loss, batch, seed, by_index)
    _check_finite(true_loss, gradient)
    step.get_ready(batch)  # now the length of its cycle is known
    before = [p.detach().clone() for p in step.parameters]
    # The update is as large as the weights, so that rounding is a small share of it.
    size, slope = norm(before), norm(gradient)
    learning_rate = size / slope if size > 0 and slope > 0 else 1.0
    update, errors, estimates = _Update(before, conditions), [], []
    count = REPLAYS if conditions.captured else step.cycle
    for _ in range(count):
        with torch.no_grad():
            for parameter, value in zip(step.parameters, before, strict=True):
                parameter.copy_(value)
        kept = state_kept(trained) if count > 1 else nullcontext()  # so that all begin as reverse mode did
        with kept, _same_masks(seed, batch, model, by_index):
            value = step(batch, learning_rate)
        with _same_masks(seed, batch, model, by_index):
            estimate = step.expected(gradient, copy.deepcopy(model), batch)
        if conditions.captured:  # otherwise, those of a deep model's cycle would fill the memory
            estimates.append(estimate)
        errors.append(_share_off(before, step, update.moves(estimate, learning_rate, step.left_alone)))
        errors.append(abs(float(value) - true_loss) / max(abs(true_loss), SMALLEST))
    error = max(errors) if all(map(math.isfinite, errors)) else math.inf
    tolerance = max(precisions.loosest(_tolerances(batch[0].device)), step.tolerance)
    if conditions.captured and error <= tolerance:
        _check_draws(step, estimates)
    return error, tolerance


def _within_norms(model: nn.Module) -> nn.Module:
    """The model; where a forward pass shortens rows of an embedding (`max_norm`), a copy with short ones.

    A step would otherwise change weights by more than its update.
    """
    limited = (nn.Embedding, nn.EmbeddingBag)
    if not any(isinstance(m, limited) and m.max_norm is not None for m in model.modules()):
        return model
    own = copy.deepcopy(model)
    for module in own.modules():
        if isinstance(module, limited) and module.max_norm is not None:
            weight = module.weight.data
            weight.copy_(torch.renorm(weight, module.norm_type, 0, module.max_norm))
    return own


def _check_finite(true_loss: float, gradient: Sequence[Tensor]) -> None:
    """Check that there is something to compare a step with: a model's own defect is not the step's."""
    if not math.isfinite(true_loss):
        raise WrongStepError(f"the model's loss is {true_loss} before any step. It was not timed.")
    if not math.isfinite(norm(gradient)):
        raise WrongStepError("the loss's gradient by reverse mode is not finite. It was not timed.")


def _without_dropout(module: nn.Module) -> None:
    """Set the shares that a module drops to 0: `p` of torch's dropout layers, and numbers named after it."""
    of_layer = "drop" in type(module).__name__.lower() or type(module).__name__ == "StochasticDepth"
    for name, value in vars(module).items():
        if isinstance(value, float) and ("drop" in name or (name == "p" and of_layer)):
            setattr(module, name, 0.0)


def _share_off(before: Sequence[Tensor], step: Step, wanted: Iterable[Tensor]) -> float:
    """How far a step's change of the weights is from the one that is wanted, as a share of the latter."""
    off = size = 0.0
    for old, new, move in zip(before, step.parameters, wanted, strict=True):
        made = new.detach().double() - old.double()
        off += float((made - move).square().sum())
        size += float(move.square().sum())
    return math.sqrt(off) / max(math.sqrt(size), SMALLEST)


def _tolerances(device: torch.device) -> dict[torch.dtype, float]:
    """Tolerances by dtype; a GPU may be set to round the factors of float32 products to TF32.

    In a caller's own process cuDNN may round convolutions alone, as it does unless told otherwise. Of torch's
    two ways to ask, this one answers however the precision was set; the older one may raise.
    """
    backends = torch.backends
    asked = backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    rounded = device.type == "cuda" and "tf32" in asked
    return TOLERANCE | ({torch.float32: TF32} if rounded else {})


def _check_draws(step: Step, estimates: Sequence[Sequence[Tensor]]) -> None:
    """Check that a captured step draws new tangents at each replay, if it draws any."""
    if not step.generators():
        return
    if not abs(cosine(*estimates)) <= SAME_DIRECTION:  # NaN where an estimate is zero
        raise WrongStepError("its CUDA graph draws the same tangents at each replay. It was not timed.")


class _Update:
    """The changes that an optimiser makes to weights, by successive updates from the same weights."""

    def __init__(self, before: Sequence[Tensor], conditions: Conditions) -> None:
        self.before, self.optimizer = before, None
        if conditions.optimizer != PLAIN_SGD:
            self.after = [b.clone().requires_grad_() for b in before]
            self.optimizer = make_optimizer(Conditions(optimizer=conditions.optimizer), self.after)

    def moves(
        self, estimate: Sequence[Tensor], learning_rate: float, left_alone: frozenset[int]
    ) -> Iterator[Tensor]:
        """The change of each parameter by an estimate, in float64; `left_alone` have none, and stay."""
        if self.optimizer is None:
            yield from (-learning_rate * e.double() for e in estimate)
            return
        for index, (parameter, start) in enumerate(zip(self.after, self.before, strict=True)):
            parameter.data.copy_(start)
            own = estimate[index].detach().to(parameter.dtype)
            parameter.grad = None if index in left_alone else own
        optimize(self.optimizer, learning_rate)
        yield from (a.detach().double() - b.double() for a, b in zip(self.after, self.before, strict=True))


def _reverse_mode(
    model: nn.Module, loss: Loss, batch: Batch, seed: int, by_index: bool
) -> tuple[float, list[Tensor]]:
    """The loss and its gradient, which is left in the model's parameters."""
    with _same_masks(seed, batch, model, by_index):
        value = loss(model(batch[0]), batch[1])
    parameters = list(trainable(model).values())
    for parameter in parameters:
        parameter.grad = None
    value.backward()  # as in training: torch.utils.checkpoint refuses torch.autograd.grad
    if all(p.grad is None for p in parameters):
        raise WrongStepError(UNTRAINED)
    return float(value.detach()), [_dense(p) for p in parameters]


def _dense(parameter: Tensor) -> Tensor:
    """The gradient in a parameter, which has all entries."""
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros_like(parameter)
    return gradient.to_dense() if gradient.layout == torch.sparse_coo else gradient


@contextmanager
def _same_masks(seed: int, batch: Batch, model: nn.Module, by_index: bool = False) -> Iterator[None]:
    """Inside, dropout drops the same units each time; the caller's random state is not changed."""
    masks = masks_by_index(model) if by_index else nullcontext()
    with OwnRandomness(seed, batch[0].device).in_force(), masks:
        yield


def norm(tensors: Sequence[Tensor]) -> float:
    """The Euclidean norm over all tensors together, summed in float64."""
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


def cosine(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The cosine of two directions over all tensors together, in float64; NaN where either has no length."""
    lengths = norm(one) * norm(other)
    along = sum(float((a.double() * b.double()).sum()) for a, b in zip(one, other, strict=True))
    return along / lengths if lengths > 0 else math.nan
