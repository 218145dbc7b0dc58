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

EXPERIMENTS = [(paper, e) for paper in names() for e in load(paper).experiments]
IDS = [f"{paper}-{e.name}" for paper, e in EXPERIMENTS]


def test_the_papers_are_there():
    assert names() == ("baydin2022", "fluegel2024", "fournier2023", "panchal2025")
    with pytest.raises(UsageError, match="choose from baydin2022"):
        load("nobody1900")


@pytest.mark.parametrize(("paper", "experiment"), EXPERIMENTS, ids=IDS)
class TestEveryExperiment:
    def test_its_kind_estimates_it_at_every_scale_and_smoke_is_the_shortest(self, paper, experiment):
        smoke, laptop, full = (experiment.by.seconds(experiment.settings(scale)) for scale in SCALES)
        assert 0 < smoke < 120
        assert smoke <= laptop <= full
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


def test_only_takes_names_that_there_are():
    suite = load("baydin2022")
    assert [e.name for e in suite.only(["fig6"])] == ["fig6"]
    assert suite.only([]) == suite.experiments
    with pytest.raises(UsageError, match="--only fig9: baydin2022 has fig2"):
        suite.only(["fig9"])
