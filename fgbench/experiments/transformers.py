"""Measure what a forward step of Hugging Face's transformers costs, and compare it with targets and floors.

    python -m fgbench.experiments.transformers --out results/transformers

GPT-2, Llama and a BERT classifier of 4 layers and 256 features, without dropout, on 8 × 128 random tokens.
`fgbench.compare` times them in several fresh processes, and counts what their floors are made of.
`transformers.csv` has a row for each model and method: the ratio of its R to that of the fastest backprop,
with its interval, the least that the ratio could be on this machine, and the target. `transformers.json`
describes the machine. It needs `pip install fgbench[hf]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from fgbench import api, methods
from fgbench.experiments.engine import BACKPROP, FOUR, RANK_ONE
from fgbench.measurement.environment import describe_environment
from fgbench.store.experiment import command, store_experiment

LAYERS, FEATURES, HEADS, INNER, TOKENS = 4, 256, 4, 1024, 256
SAMPLES, LENGTH, CLASSES = 8, 128, 2
GAUSSIAN, ONE_LAYER = "forward", f"{RANK_ONE},layers=one"


@dataclass(frozen=True)
class Case:
    """A model, and the largest ratio to backprop that each method should have."""

    name: str
    build: Callable[[], nn.Module]
    goals: dict[str, float]
    classes: int | None = None  # that a whole text is of; None for a target at each token

    def batch(self) -> tuple[Tensor, Tensor]:
        """Random tokens, and random targets."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(3, TOKENS, (SAMPLES, LENGTH), generator=generator)  # the first few may mean padding
        if self.classes is None:
            return x, x.roll(-1, 1)
        return x, torch.randint(self.classes, (SAMPLES,), generator=generator)


def gpt2() -> nn.Module:
    """A GPT-2 language model."""
    config = transformers.GPT2Config(
        vocab_size=TOKENS,
        n_layer=LAYERS,
        n_embd=FEATURES,
        n_head=HEADS,
        n_positions=LENGTH,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    return transformers.GPT2LMHeadModel(config)  # type: ignore[no-any-return]


def llama() -> nn.Module:
    """A Llama language model."""
    config = transformers.LlamaConfig(
        vocab_size=TOKENS,
        num_hidden_layers=LAYERS,
        hidden_size=FEATURES,
        intermediate_size=INNER,
        num_attention_heads=HEADS,
    )
    return transformers.LlamaForCausalLM(config)  # type: ignore[no-any-return]


def bert() -> nn.Module:
    """A BERT that classifies texts into two classes, as many as its configuration has by default."""
    config = transformers.BertConfig(
        vocab_size=TOKENS,
        num_hidden_layers=LAYERS,
        hidden_size=FEATURES,
        intermediate_size=INNER,
        num_attention_heads=HEADS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertForSequenceClassification(config)  # type: ignore[no-any-return]


CASES = (
    Case("gpt2", gpt2, {RANK_ONE: 0.80, FOUR: 1.9, GAUSSIAN: 1.05, ONE_LAYER: 0.60}),
    Case("llama", llama, {RANK_ONE: 0.75, FOUR: 1.8, GAUSSIAN: 1.0, ONE_LAYER: 0.60}),
    Case("bert", bert, {RANK_ONE: 0.80, FOUR: 1.9, GAUSSIAN: 1.05, ONE_LAYER: 0.60}, CLASSES),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cases, store the rows and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/transformers"))
    parser.add_argument("--seconds", type=float, default=90.0, help="about how long to time each model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", action="append", choices=[c.name for c in CASES], help="all by default")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    facts = {"command": command(), "environment": describe_environment("cpu", asked.threads)}
    rows: list[dict[str, Any]] = []
    for case in CASES:
        if case.name in (asked.case or [case.name]):
            for row in _rows(case, asked.seconds):
                rows.append(row)
                print("{model} {method}: {ratio:.3f} [{ratio_low:.3f}, {ratio_high:.3f}]".format(**row))
            store_experiment(asked.out, "transformers", rows, facts)


def _rows(case: Case, seconds: float) -> Iterator[dict[str, Any]]:
    torch.manual_seed(0)
    model = case.build().train()
    specs = [BACKPROP, *case.goals]
    compared = api.compare(
        model, nn.functional.cross_entropy, case.batch(), specs, max_measure_seconds=seconds
    )
    timed = compared[compared["role"] == "method"].set_index("method")
    for method, goal in case.goals.items():
        own = timed.loc[methods.canonical_specs([method])[0]]
        yield {
            "model": case.name,
            "method": own.name,
            **{c: own[c] for c in ("seconds", "r", "ratio", "ratio_low", "ratio_high")},
            "ratio_target": goal,
            **{c: own[c] for c in ("floor_ratio", "floor_share", "processes", "rounds")},
            "over": timed.loc[BACKPROP, "update"],
        }


if __name__ == "__main__":
    main()
