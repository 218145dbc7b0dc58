"""The papers' suites: they load, which checks their claims, and every experiment can be planned."""

from __future__ import annotations

import pytest

from fgbench import architectures, functions, methods
from fgbench.errors import UsageError
from fgbench.methods.steps.optimizer import canonical_optimizer
from fgbench.reproduction import jobs
from fgbench.reproduction.loading import load, names
from fgbench.reproduction.scale import SCALES
from fgbench.specs import registry
from fgbench.specs.options import split_spec
from fgbench.training.decay import decay_of

EXPERIMENTS = [(paper, e) for paper in names() for e in load(paper).experiments]
IDS = [f"{paper}-{e.name}" for paper, e in EXPERIMENTS]


def test_the_papers_are_there():
    assert names() == ("baydin2022", "fluegel2024", "fournier2023", "panchal2025")
    with pytest.raises(UsageError, match="choose from baydin2022"):
        load("nobody1900")


@pytest.mark.parametrize(("paper", "experiment"), EXPERIMENTS, ids=IDS)
class TestEveryExperiment:
    def test_its_kind_estimates_it_at_every_scale_and_smoke_is_the_shortest(self, paper, experiment):
        smoke, laptop, own, full = (experiment.by.seconds(experiment.settings(scale)) for scale in SCALES)
        assert 0 < smoke < 120
        assert smoke <= laptop <= min(own, full)
        assert laptop < 3600

    def test_its_methods_functions_and_data_are_registered(self, paper, experiment):
        for scale in SCALES:
            settings = experiment.settings(scale)
            if experiment.kind == "jobs":
                for config in jobs.configs(settings).values():
                    assert methods.canonical_specs(config.methods) == config.methods, "claims name them so"
                    canonical_optimizer(config.optimizer)
                    assert split_spec(config.dataset)[0] in registry.names("datasets")
                    for arch in config.archs:
                        allowed = architectures.find(arch).depths
                        assert not allowed or set(config.depths or ()) <= set(allowed)
            if experiment.kind == "functions":
                for case in settings["cases"]:
                    functions.find(case["function"])
                    methods.canonical_specs(tuple(case["learning_rates"]))
            if experiment.kind == "alignment":
                methods.canonical_specs(tuple(settings["methods"]))


# Learning rates of §2's table, by width, in the order of `fc`'s methods.
FLUEGEL = {
    256: (0.0261, 5.59e-4, 8.48e-4, 8.19e-4, 1.43e-3, 0.211, 0.121, 0.0423),
    1024: (0.0334, 1.57e-4, 2.18e-4, 7.91e-4, 2.69e-3, 0.231, 0.200, 0.127),
    4096: (0.0387, 7.06e-5, 1.29e-4, 1.77e-4, 4.98e-4, 0.463, 0.354, 0.252),
}


def test_no_claim_says_more_than_is_tested():
    """Whether a figure is below another says nothing of how far."""
    sides = [c for _, e in EXPERIMENTS for c in e.claims if c.test in ("below", "above")]
    assert not [c.text for c in sides if {"far", "much", "drastically"} & set(c.text.split())]


def test_the_multi_tangent_paper_is_followed_at_its_rates_for_its_epochs():
    (fc,) = load("fluegel2024").only(["fc"])
    seeds = {"full": {256: 3, 1024: 3, 4096: 3}, "paper": {256: 7, 1024: 1, 4096: 1}}
    for scale, of_width in seeds.items():
        found = jobs.configs(fc.settings(scale))
        assert {config.width: config.seeds for config in found.values()} == of_width
        for config in found.values():
            assert (config.batches, config.patience, config.optimizer) == ((64,), 10, "sgd")
            assert config.max_iterations == 200 * (50_000 // 64)
            forward = [methods.find(spec) for spec in config.methods if spec != "backprop"]
            assert {(m.structure, m.noise, m.entries) for m in forward} == {("activity", "batch", "gaussian")}
            told = dict(zip(FLUEGEL[config.width], full_methods(fc), strict=True))
            assert {rate: told[rate] for rate in config.learning_rates.values()} == {
                rate: spec for spec, rate in config.learning_rates.items()
            }
    own = jobs.configs(fc.settings("paper"))
    assert len(own["w256"].methods) == 8
    wanted = [(1, "mean"), (4, "mean"), (16, "mean"), (4, "projection"), (16, "projection")]
    wide = [spec for name, config in own.items() if name.startswith("w1024+") for spec in config.methods]
    assert wide[0] == "backprop"
    assert [(m.tangents, m.combine) for m in map(methods.find, wide[1:])] == wanted


def full_methods(fc) -> tuple[str, ...]:
    return jobs.configs(fc.settings("full"))["w4096"].methods


def test_the_first_paper_is_followed_for_its_steps():
    suite = load("baydin2022")
    for name, steps, seeds, rates in (("logreg", 25_000, 5, {1e-4}), ("mlp", 20_000, 3, {2e-5, 2e-4})):
        (experiment,) = suite.only([name])
        trained = [c for c in jobs.configs(experiment.settings("paper")).values() if c.train]
        assert {(c.max_iterations, c.seeds, c.lr_decay, c.target_loss) for c in trained} == {
            (steps, seeds, 1e-4, "backprop-best")
        }
        assert {c.learning_rate for c in trained} == rates
        assert {len(c.methods) for c in trained} == {4}


def test_the_third_papers_rate_is_divided_by_5_after_every_30_of_its_epochs():
    (table,) = load("fournier2023").only(["table"])
    epoch = 50_000 // 128
    for config in jobs.configs(table.settings("full")).values():
        decay, steps = decay_of(config.lr_decay), config.max_iterations
        assert steps == 100 * epoch
        firsts = [0, 30 * epoch, 60 * epoch, 90 * epoch]
        assert [decay.at(i, steps) for i in firsts] == pytest.approx([1, 0.2, 0.04, 0.008])
        assert [decay.at(i - 1, steps) for i in (*firsts[1:], steps)] == pytest.approx([1, 0.2, 0.04, 0.008])
    for scale in ("laptop", "paper"):
        assert all(c.max_iterations < 30 * epoch for c in jobs.configs(table.settings(scale)).values())


def test_only_takes_names_that_there_are():
    suite = load("baydin2022")
    assert [e.name for e in suite.only(["fig6"])] == ["fig6"]
    assert suite.only([]) == suite.experiments
    with pytest.raises(UsageError, match="--only fig9: baydin2022 has fig2"):
        suite.only(["fig9"])


def test_only_takes_runs_of_an_experiment():
    (fc,) = load("fluegel2024").only(["fc/w256", "fc/w256"])
    assert list(jobs.configs(fc.settings("paper"))) == ["w256"]
    (both,) = load("fluegel2024").only(["fc/w1024", "fc/w256"])
    parts = ["w1024+mean", "w1024+projection4", "w1024+projection16"]
    assert list(jobs.configs(both.settings("paper"))) == ["w256", *parts]
    (part,) = load("fluegel2024").only([f"fc/{parts[1]}"])
    assert list(jobs.configs(part.settings("paper"))) == parts[1:2]
    (whole,) = load("fluegel2024").only(["fc/w256", "fc"])
    assert len(jobs.configs(whole.settings("full"))) == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fc/w512", "--only fc/w512: fc has fc/w256, fc/w1024\\+mean, "),
        ("fc/", "--only fc/: fc has fc/w256, fc/w1024"),
        ("functions/sphere", "functions has no parts"),
    ],
)
def test_a_run_that_is_not_there_is_refused(name, said):
    (experiment,) = load("fluegel2024").only([name])
    with pytest.raises(UsageError, match=said):
        experiment.settings("paper")
