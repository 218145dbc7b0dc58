"""Pretraining: the same options give the same weights, and a run's jobs all begin from them."""

from __future__ import annotations

import dataclasses

from fgbench.plan import make_plan
from fgbench.plan.contract import contract
from fgbench.running.matched import build_matched, weights_hash
from fgbench.running.pretraining import begin
from fgbench.training.checkpoint import weights_digest
from tests.builders import config

SMALL = {
    "archs": ("transformer",),
    "depths": (1,),
    "width": 16,
    "dataset": "pydoc:context=16,part=first",
    "optimizer": "adamw",
}


def pretrained(path) -> str:
    model = begin(config(**SMALL), seed=0, steps=30)
    losses = [point.validation_loss for point in model.points(1e-2)]
    assert len(losses) == 11
    assert losses[-1] < 0.8 * losses[0], losses
    return model.save(path)


def test_every_job_begins_from_what_was_pretrained_and_its_hash_is_in_the_contract(tmp_path):
    hashed = pretrained(tmp_path / "start.pt")
    assert pretrained(tmp_path / "again.pt") == hashed, "the same options give the same weights"
    options = {**SMALL, "dataset": "pydoc:context=16,part=second", "optimizer": "sgd"}
    fresh = make_plan(config(**options))
    plan = make_plan(config(**options, start=str(tmp_path / "start.pt")))
    matched = [build_matched(plan.groups[0], "nowhere", seed) for seed in (1, 2)]
    assert [weights_hash(m.model) for m in matched] == [hashed] * 2
    assert plan.weights == weights_digest(matched[0].model.state_dict()) == hashed
    moved = dataclasses.replace(plan.groups[0], start="elsewhere.pt")
    facts = {"device_name": "x", "libraries": {"torch": "2"}, "cores": 2}
    known = dict.fromkeys(("cuda", "cudnn", "power_limit"), "")
    contracts = [
        contract(group, {**facts, **known}, plan.data, weights)
        for group, weights in ((plan.groups[0], hashed), (moved, hashed), (fresh.groups[0], ""))
    ]
    assert contracts[0] == contracts[1] != contracts[2], "by its contents, wherever the file lies"


def test_lora_s_own_weights_follow_from_the_seed_and_n_is_theirs(tmp_path):
    options = {**SMALL, "optimizer": "sgd", "trained": "lora:rank=2,targets=qkv"}
    plan = make_plan(config(**options))
    one, other = (build_matched(plan.groups[0], "nowhere", seed) for seed in (1, 2))
    assert one.facts().parameters == 2 * (16 + 48)
    assert weights_hash(one.model) != weights_hash(other.model)
    assert "training lora:rank=2,targets=qkv" in plan.groups[0].sentence
