"""Local gradient guesses: forward mode gives the derivative along a direction that a block itself chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fgbench.errors import UsageError
from fgbench.methods import PLAIN, Batch, Conditions, Loss, Method, Step, eager_alone
from fgbench.methods.steps.auxiliary import HELP, KINDS
from fgbench.methods.steps.blocks import State, activation, each
from fgbench.methods.steps.blockwise import Block, BlockwiseStep, by_block, in_order
from fgbench.methods.steps.spaces import SPACES, Guess, drops, loss_meets, samples_meet
from fgbench.pushforward.context import Context, draws_again, state_kept
from fgbench.pushforward.dual import Dual, primal_of
from fgbench.pushforward.structures import Fill
from fgbench.specs.options import option

ENTRIES = {"random": "gaussian", "rademacher": "rademacher"}
# A note that is printed under the figures.
MEET = "samples depend on each other: the whole batch shares one derivative"
TRAINED, STILL = "trained", "still"  # sets of auxiliary networks


@dataclass(frozen=True)
class LocalGuess(Method):
    """g = ⟨T, G⟩ / (‖G‖² + ε) · G for each block, with a target gradient T and a guess G of it."""

    target: str = option(
        "global",
        "T, the gradient that is projected on the guess. global: that of the end-to-end loss; local: that of "
        "the block's auxiliary loss",
        choices=("global", "local"),
    )
    guess: str = option(
        "local",
        "G, the guess. random: N(0, 1); rademacher: ±1; local: the gradient of the block's auxiliary loss; "
        "ntk: the same with an auxiliary network drawn anew for every batch; fixed-ntk: the same with "
        "a network that is drawn once and never trained",
        choices=("random", "rademacher", "local", "ntk", "fixed-ntk"),
    )
    space: str = option(
        "batch-weight",
        "what is perturbed. weight: weights of each sample's own; batch-weight: the weights that the batch "
        "shares, all of a block together; batch-tensor: the same, but each weight tensor by itself, with a "
        "derivative of its own, as in the authors' code; activation: the block's output",
        choices=tuple(SPACES),
    )
    scale: str = option(
        "projection",
        "how the estimate is scaled. projection: ⟨T, G⟩ / ‖G‖² · G, as in the paper; none: ⟨T, G⟩ · G, "
        "whose mean is T for random guesses, for which the authors' code has it",
        choices=("projection", "none"),
    )
    aux: str = option("linear", HELP, choices=KINDS)
    blocks: int = option(8, "how many blocks the model is cut into, or as many as it has", minimum=1)

    summary: ClassVar[str] = "forward gradient along a guess from each block's own loss, or a random one"
    source: ClassVar[str] = "Fournier et al. 2023 (arXiv 2306.06968)"
    costs: ClassVar[str] = (
        "1 product a layer, those of the guess, and with target=global the tangents of all blocks before; "
        "a block has one, or with space=batch-tensor one for each of its weight tensors"
    )
    worth: ClassVar[str] = (
        "no formula but for random guesses: along n numbers of a block, cosine about √(1/n)"
    )

    def __post_init__(self) -> None:
        """Refuse options that contradict each other, before anything runs."""
        if self.scale == "none" and self.guess not in ENTRIES:
            raise UsageError(
                "local-guess: scale=none is for guess=random and guess=rademacher, and "
                f"guess={self.guess} has a length of its own: leave it out."
            )

    @property
    def unbiased(self) -> bool:
        """Random guesses of the end-to-end gradient are, unless scaled: then their mean is 1/n of it."""
        return self.scale == "none" and self.target == "global"

    @property
    def queries(self) -> int:
        """1 for the value; 2 for reverse mode within the blocks, or 1 if only the last block needs it; and
        the tangents, each of which goes through the blocks behind its own, on average half the model: one a
        block, or with space=batch-tensor one a weight tensor, for which two a block are counted.
        """
        back = 1 if self.guess in ENTRIES and self.space != "activation" else 2
        along = -(-self.blocks // 2) if self.target == "global" else 1
        return 1 + back + along * (2 if self.space == "batch-tensor" else 1)

    def refuses(self, execution: str) -> str:
        """All modes but eager, as blocks run one after the other."""
        return eager_alone("local-guess", execution)

    def prepare(self, model: nn.Module, loss: Loss, seed: int, conditions: Conditions = PLAIN) -> Step:
        """Bind to a model; random guesses and auxiliary networks depend on `seed` alone."""
        return LocalGuessStep(model, loss, seed, self, conditions)


class LocalGuessStep(BlockwiseStep):
    """One pass through the blocks: each finds its guess, adds it as a tangent, and passes earlier ones on.

    The last block has the true gradient. Each other block has a derivative along its own guess, whose tangent
    goes on to the loss beside those of the other blocks. Each sample has its own derivative, except where
    samples depend on each other behind the block (batch statistics, also in an auxiliary network): then all
    share one. In activation space the blocks' graphs live until the derivatives are known.
    """

    name = "local-guess"

    def __init__(
        self, model: nn.Module, loss: Loss, seed: int, options: LocalGuess, conditions: Conditions
    ) -> None:
        self.options = options
        self.space = SPACES[options.space]()
        super().__init__(model, loss, seed, options.blocks, options.aux, conditions)
        self.drawn = options.guess in ENTRIES
        self.fill = Fill(ENTRIES.get(options.guess, "gaussian"), self.generator)
        self.end_to_end = options.target == "global"
        # Whether reverse mode records the blocks, and whether blocks also run without tangents.
        self.records = self.space.records or not (self.drawn or self.space.by_sample)
        self.looks = self.space.records or not self.drawn or not self.end_to_end
        self.together: list[bool] | None = None
        self.alone = False  # whether all batches so far had a single sample, of which nothing can be told

    def roles(self) -> dict[str, bool]:
        """Trained auxiliary networks for a local guess or target; untrained ones for the guesses `…ntk`."""
        trained = "local" in (self.options.guess, self.options.target)
        still = self.options.guess in ("ntk", "fixed-ntk")
        return {role: role == TRAINED for role, is_in in ((TRAINED, trained), (STILL, still)) if is_in}

    def get_ready(self, batch: Batch) -> None:
        """Make the auxiliary networks, and find out behind which blocks samples depend on each other."""
        super().get_ready(batch)
        if self.together is None or self.alone:
            self.together, self.alone = self._meetings(batch), len(batch[0]) == 1

    def _draw(self, batch: Batch) -> None:
        super()._draw(batch)
        if self.options.guess == "ntk" and self.inner:
            self.auxiliaries[STILL].initialise(self.generator)
        self.guesses: list[Guess] = [self._drawn(i, len(batch[0])) for i in range(len(self.inner))]

    def _drawn(self, index: int, samples: int) -> Guess:
        if not self.drawn:
            return ()
        assert self.shapes is not None
        like = self.parameters[0]
        shapes = self.space.shapes(self.inner[index], self.shapes[index], samples)
        return [self.fill(like.new_empty(shape, requires_grad=False)) for shape in shapes]

    @torch.no_grad()
    def _meetings(self, batch: Batch) -> list[bool]:
        """For each block but the last, whether all samples share a derivative."""
        meet, state = [], batch[0]
        with draws_again(state.device), state_kept(self.model):
            for block in self.blocks:
                meet.append(samples_meet(block.pushforward, state))
                state = block.module(state)
        if self.options.space == "weight" and (any(meet[:-1]) or any(drops(b.module) for b in self.inner)):
            raise UsageError(
                "local-guess:space=weight runs each sample by itself, but batch norm and dropout need a "
                "whole batch: use space=batch-weight or space=activation."
            )
        together = not self.end_to_end or loss_meets(self.last.pushforward, state, batch[1])
        return [together or any(meet[i + 1 :]) for i in range(len(self.inner))]

    def _forward(self, batch: Batch) -> None:
        x, moved, self.outputs, self.derivatives = batch[0], None, [], []
        for index, block in enumerate(self.inner):
            # Every pass through a block drops the same units, and only the first updates its buffers.
            onwards = moved is not None
            output = self._look(index, block, x, batch[1], again=self.space.passes or onwards)
            with torch.no_grad(), draws_again(batch[0].device, onwards and self.space.passes):
                own = self.space.push(block, x, output, self.guesses[index], first=not self.looks)
            if not self.end_to_end:
                self.derivatives.append(self.auxiliaries[TRAINED].derivatives(index, own, batch[1]))
            elif moved is None:
                moved = own
            else:
                behind = Context(len(activation(moved).tangents), {}, first=False)
                earlier = block.pushforward.push(behind, moved)
                moved = each(_joined, earlier, own)
            x = each(primal_of, own)
            self.outputs.append(output if self.space.records else None)
        with draws_again(batch[0].device, moved is not None):
            self._forward_last(x, batch[1])
        if moved is not None:
            context, last = Context(len(activation(moved).tangents), {}, first=False), self.last.pushforward
            _, found = last.derivatives(context, last.push(context, moved), batch[1])
            self.derivatives = list(found.split(list(map(self.space.tangents, self.inner))))

    def _look(self, index: int, block: Block, x: State, target: Tensor, *, again: bool) -> State:
        """Run a block without tangents, and find its guess; None where that is not needed."""
        if not self.looks:
            return None
        with draws_again(target.device, again), torch.set_grad_enabled(self.records):
            output = block.module(x)
        slopes = {
            role: auxiliaries.slope(index, output, target, learn=role == TRAINED)
            for role, auxiliaries in self.auxiliaries.items()
        }
        if not self.drawn:
            slope = slopes[TRAINED if self.options.guess == "local" else STILL]
            self.guesses[index] = self.space.of_slope(block, x, output, slope)
        return output

    def _backward(self) -> None:
        super()._backward()
        for index, (block, output) in enumerate(zip(self.inner, self.outputs, strict=True)):
            self._keep(block, self._estimate(index, block, output, self.derivatives[index]))
        self.outputs = []

    def _estimate(self, index: int, block: Block, output: State, derivatives: Tensor) -> list[Tensor]:
        """The estimate for a block's parameters, from derivatives along its guess, [k, batch] or [k, 1]."""
        guess, by_sample = self.guesses[index], self.space.by_sample
        assert self.together is not None
        shared = by_sample and (self.together[index] or derivatives.shape[1] < len(guess[0]))
        weights = derivatives[0] if by_sample and not shared else derivatives.sum(1)
        if self.options.scale == "projection":
            squared = self.space.inner(guess, guess)
            squared = squared.sum(0, keepdim=True) if shared else squared
            weights = weights / (squared + torch.finfo(squared.dtype).tiny)
        return self.space.estimate(block, output, guess, weights)

    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """The estimates from the same guesses and their products with the target by reverse mode."""
        blocks, targets, outputs = self.targets(gradient, model, batch)
        found = by_block(model, blocks, gradient)
        for index, target in enumerate(targets):
            products = self.space.inner(target, self.guesses[index])
            products = products.unsqueeze(0 if self.space.by_sample else 1)
            if self.derivatives[index].shape[1] < products.shape[1]:  # no rows of the samples' own
                products = products.sum(1, keepdim=True)
            found[index] = self._estimate(index, blocks[index], outputs[index], products)
        return in_order(model, blocks, found)

    def targets(
        self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch
    ) -> tuple[list[Block], list[list[Tensor]], list[State]]:
        """T of each block but the last by reverse mode, in the guess's space; arguments as for `expected`.

        Returns:
            The blocks of `model`, their targets, and their outputs.
        """
        blocks, inputs, outputs = self.by_reverse_mode(model, batch)
        if self.end_to_end and not self.space.by_sample:
            return blocks, by_block(model, blocks, gradient)[:-1], outputs
        slopes = self._slopes(outputs, batch[1])
        inner = zip(blocks[:-1], inputs, outputs, slopes, strict=False)
        return blocks, [self.space.of_slope(*of_block) for of_block in inner], outputs

    def _slopes(self, outputs: Sequence[State], target: Tensor) -> Sequence[Tensor]:
        """The gradient of the target's loss with respect to the output of each block but the last."""
        inner = outputs[:-1]
        if self.end_to_end and inner:
            value = self.loss(outputs[-1], target)
            return torch.autograd.grad(value, [activation(o) for o in inner], retain_graph=True)
        return [self.auxiliaries[TRAINED].slope(i, output, target) for i, output in enumerate(inner)]

    def notes(self) -> list[str]:
        """Also which functions had no rule, and whether samples depend on each other."""
        fallen = {text for block in self.blocks for text in block.pushforward.fallbacks}
        meet = self.space.by_sample and any(self.together or ())
        return [*super().notes(), *[MEET] * meet, *sorted(fallen)]


def _joined(earlier: Dual, own: Dual) -> Dual:
    """Append the block's own tangents to those of earlier blocks."""
    return Dual(torch.cat([earlier.stack, own.tangents]))


method = LocalGuess
