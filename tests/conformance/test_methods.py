"""Every registered method and every value of its options, whoever wrote it."""

from __future__ import annotations

import copy
import math
import re
from functools import cache

import pytest
import torch
from scipy import stats

from fgbench import methods
from fgbench.errors import UsageError
from fgbench.methods.steps import oracle
from fgbench.running.matched import weights_hash
from fgbench.specs import registry
from fgbench.specs.options import canonical, options_of
from tests.builders import (
    built_model,
    cross_entropy,
    flat,
    loss_for,
    reverse_gradient,
    suited_batch,
    tiny_batch,
    tiny_mlp,
    updates,
)

DRAWS = 1500
FALSE_ALARMS = 1e-4  # of a whole test of unbiasedness, over all components
IN_SHAPE, CLASSES = (1, 8, 8), 5

# Those that may refuse a model, in a line that says why.
MICRO_BATCHES = (
    *("backprop:accumulate=4", "backprop:update=in-backward,checkpoint=true,accumulate=3"),
    *("forward:tangents=3,chunk=2,accumulate=4", "forward:structure=rank-one,layers=one,accumulate=4"),
    "spsa:accumulate=4",
)
SHARED_NOISE = (
    "forward:structure=activity,noise=batch",
    *(f"forward:tangents=3,structure=activity,noise=batch{more}" for more in ("", ",combine=projection")),
)
AT_BLOCKS = (
    "forward:structure=activity,at=block",
    *(
        f"forward:tangents=3,structure=activity,{more}at=block,combine=projection"
        for more in ("", "noise=batch,")
    ),
)
PARTICULAR = ("local-losses", "local-guess", "dfa", "fdfa", *MICRO_BATCHES, *SHARED_NOISE, *AT_BLOCKS)
REFUSED_ALONE = (
    *("forward:noise=batch", "forward:at=block", "forward:entries=gaussian", "backprop:segments=sqrt"),
    "local-guess:scale=none",
    *(f"{name}:sampling={s}" for name in ("forward", "spsa") for s in ("uniform", "adaptive")),
)

# Options that mean something only together.
TOGETHER = [
    *(f"forward:tangents=3,structure={s}" for s in ("gaussian", "rank-one", "activity", "orthonormal")),
    *(f"forward:tangents=3,structure={s},combine=projection" for s in ("rademacher", "rank-one")),
    "forward:tangents=3,structure=fixed-angle,angle=30",
    "forward:tangents=5,structure=sphere,chunk=2,store=seed",
    "forward:tangents=3,combine=sum",
    *(f"local-guess:guess=random,scale=none,space={s}" for s in ("batch-tensor", "activation")),
    "forward:tangents=3,clip=0.01",
    "forward:tangents=3,scale=variance",
    "forward:structure=rank-one,entries=gaussian",
    "forward:structure=activity,entries=gaussian",
    "forward:engine=stock,structure=rademacher",
    "forward:layers=one",
    *(f"forward:layers=one,structure={s}" for s in ("rademacher", "sphere", "rank-one")),
    *(f"forward:layers=one,structure=rank-one,sampling={s}" for s in ("uniform", "adaptive")),
    "forward:tangents=3,structure=rank-one,layers=one,sampling=adaptive,bound=5",
    "forward:tangents=5,structure=sphere,chunk=2,store=seed,layers=one",
    "forward:tangents=3,combine=sum,layers=one",
    "forward:structure=activity,layers=one",
    "forward:structure=activity,layers=one,sampling=uniform,entries=gaussian",
    "forward:tangents=3,structure=activity,layers=one,sampling=adaptive",
    "spsa:layers=one",
    "spsa:structure=rademacher,layers=one,sampling=adaptive",
    "spsa:layers=one,sampling=uniform",
    "forward:tangents=3,clip=0.01,layers=one,sampling=uniform",
    *(f"local-guess:guess={g},space={s}" for g in ("random", "ntk") for s in ("weight", "activation")),
    "local-guess:target=local,guess=fixed-ntk,space=activation",
    "backprop:checkpoint=true",
    "backprop:checkpoint=true,segments=sqrt",
    "backprop:checkpoint=true,update=in-backward",
    *MICRO_BATCHES,
    *SHARED_NOISE,
    *AT_BLOCKS,
    "forward:structure=activity,entries=gaussian,noise=batch,layers=one",  # three equal signs move no softmax
    "forward:structure=activity,combine=projection",
    "forward:tangents=3,structure=activity,entries=gaussian,combine=projection",
]


def every_spec() -> list[str]:
    """Every method as it is by default, and with each value of each option that has choices."""
    specs = list(TOGETHER)
    for name in registry.names("methods"):
        owner = type(methods.find(name))
        specs.append(name)
        specs += [f"{name}:{o.name}={value}" for o in options_of(owner) for value in o.choices or ()]
    found = {canonical(s.split(":")[0], methods.find(s)) for s in specs if s not in REFUSED_ALONE}
    return list(methods.canonical_specs(sorted(found)))


def small_model(arch: str, dtype: torch.dtype, depth: int | None = None) -> torch.nn.Module:
    torch.manual_seed(1)
    return built_model(arch, depth, 8, IN_SHAPE, CLASSES).to(dtype).train()


def small_batch(dtype: torch.dtype, arch: str = "cnn") -> methods.Batch:
    return suited_batch(arch, 16, IN_SHAPE, CLASSES, dtype)


def weights_after(spec: str, steps: int, seed: int) -> str:
    model = tiny_mlp(dtype=torch.float32)
    step = methods.find(spec).prepare(model, cross_entropy, seed)
    for _ in range(steps):
        step(tiny_batch(torch.float32), 0.01)
    return weights_hash(model)


def test_the_default_of_each_method_is_among_the_specs():
    assert set(registry.names("methods")) <= set(every_spec())


@pytest.mark.parametrize(
    ("spec", "queries"),
    [
        ("backprop", 3),
        ("backprop:checkpoint=true", 4),
        ("forward", 2),
        ("forward:tangents=5", 6),
        ("spsa", 2),
        ("dfa", 2),
        ("fdfa", 3),
        ("local-losses", 3),
    ],
)
def test_its_queries_are_counted_in_passes(spec, queries):
    assert methods.find(spec).queries == queries


@cache
def refusal(spec: str, arch: str | None) -> str | None:
    """Why the method refuses the model, if it does."""
    model = small_model(arch, torch.float64) if arch else tiny_mlp()
    batch = small_batch(torch.float64, arch) if arch else tiny_batch()
    try:
        methods.find(spec).prepare(model, loss_for(arch) if arch else cross_entropy, 0)(batch, 0.0)
    except UsageError as error:
        return str(error)
    return None


@pytest.fixture
def suits(request, spec: str) -> None:
    """Skips a model that a particular method refuses; to any other it is the test's failure."""
    why = spec.startswith(PARTICULAR) and refusal(spec, request.node.callspec.params.get("arch"))
    if why:
        pytest.skip(why)


# Options of a step once it has its derivatives, of how entries are drawn, of how much is passed at once: no
# layer sees them. Nor can it tell a full tangent from a Gaussian one.
UNSEEN = re.compile(
    r"\b(combine|scale|clip|entries|store|angle|bound|update|sampling|chunk|accumulate)="
    r"|\b(structure|guess)=(rademacher|sphere|orthonormal|fixed-angle|fixed-ntk)\b"
)
DEEP = ("resnet", "vit", "transformer")  # a second a step in float64


def meets(spec: str, arch: str) -> bool:
    """Whether a spec is tried on an architecture: on a deep one where its layers can tell it from another."""
    return arch not in DEEP or not UNSEEN.search(spec)


def every_step() -> list[tuple[str, str, torch.dtype]]:
    """Every spec on every architecture that it meets in float64; in float32 every method, and options on one.

    What an option does to a tangent in float32 does not depend on the layer: the layers' rules do.
    """
    archs, names = registry.names("architectures"), registry.names("methods")
    exact = [(spec, arch, torch.float64) for spec in every_spec() for arch in archs if meets(spec, arch)]
    rounded = [(s, arch, torch.float32) for s in every_spec() for arch in (archs if s in names else ["cnn"])]
    return exact + rounded


@pytest.mark.usefixtures("suits")
@pytest.mark.parametrize(("spec", "arch", "dtype"), every_step(), ids=str)
def test_its_step_is_what_reverse_mode_says(spec, arch, dtype):
    model, batch = small_model(arch, dtype), small_batch(dtype, arch)
    oracle.check_step(methods.find(spec), model, loss_for(arch), batch, seed=5)


def stages(step: methods.Step, batch: methods.Batch, said_unbiased: bool) -> tuple[int, ...]:
    """After how many draws to look: a bias that a method says it has is mostly plain after few."""
    one, other = updates(step, batch, 2)
    if torch.equal(one, other):  # it draws nothing
        return (2,)
    return (DRAWS,) if said_unbiased else (DRAWS // 30, DRAWS // 6, DRAWS)


@pytest.mark.parametrize("name", registry.names("methods"))
class TestEveryName:
    def test_canonical_specs_find_their_methods_again(self, name):
        for spec in every_spec():
            if spec.split(":")[0] == name:
                method = methods.find(spec)
                assert canonical(name, method) == spec
                assert methods.find(canonical(name, method)) == method

    def test_says_what_it_is_and_where_it_comes_from(self, name):
        method = methods.find(name)
        assert method.summary
        assert method.source
        assert all(option.help for option in options_of(type(method)))


@pytest.mark.usefixtures("suits")
@pytest.mark.parametrize("spec", every_spec())
class TestEveryMethod:
    def test_its_mean_update_is_the_gradient_just_if_it_says_so(self, spec):
        """A z-test for each component, at an error rate of 1e-4 over all of them together."""
        model, batch = tiny_mlp(), tiny_batch()
        gradient = flat(reverse_gradient(model, batch))
        step = methods.find(spec).prepare(model, cross_entropy, seed=11)
        said = methods.find(spec).unbiased
        estimates = torch.empty(0, len(gradient), dtype=torch.float64)
        for draws in stages(step, batch, said):
            more = torch.stack(list(updates(step, batch, draws - len(estimates))))
            estimates = torch.cat([estimates, more])
            off = estimates.mean(dim=0) - gradient
            error = estimates.std(dim=0) / math.sqrt(draws)
            rounding = 1e-9 * float(gradient.norm())
            z = off.abs() / (error + rounding)
            unbiased = float(z.max()) < float(stats.norm.isf(FALSE_ALARMS / 2 / len(gradient)))
            if unbiased == said:
                break
        assert unbiased == said, f"component {int(z.argmax())} is {float(z.max()):.1f} errors off"

    def test_loss_falls(self, spec):
        model, batch = tiny_mlp(), tiny_batch()
        step = methods.find(spec).prepare(model, cross_entropy, seed=3)
        learning_rate = 0.01 if methods.find(spec).unbiased else 0.1  # those that are not are shorter
        losses: list[float] = []
        while len(losses) < 300 and not (losses and sum(losses[-20:]) / 20 < 0.9 * losses[0]):
            losses += [float(step(batch, learning_rate)) for _ in range(20)]
        assert sum(losses[-20:]) / 20 < 0.9 * losses[0], (losses[0], losses[-1])

    def test_reports_the_loss_before_its_update(self, spec):
        model, batch = tiny_mlp(), tiny_batch()
        with torch.no_grad():
            before = float(cross_entropy(model(batch[0]), batch[1]))
        step = methods.find(spec).prepare(model, cross_entropy, seed=0)
        value = step(batch, 0.5)
        assert value.shape == ()
        assert not value.requires_grad
        assert float(value) == pytest.approx(before, rel=max(1e-12, 1e-3 * step.tolerance))

    def test_same_seed_gives_the_same_weights_bit_for_bit(self, spec):
        assert weights_after(spec, 3, seed=7) == weights_after(spec, 3, seed=7)

    def test_another_seed_matters_just_where_something_is_drawn(self, spec):
        step = methods.find(spec).prepare(tiny_mlp(), cross_entropy, seed=0)
        one, other = list(updates(step, tiny_batch(), 2))
        drawn = bool(step.state()) or not torch.allclose(one, other, rtol=1e-9)
        assert (weights_after(spec, 3, seed=7) != weights_after(spec, 3, seed=8)) == drawn

    def test_a_step_goes_on_from_its_state_bit_for_bit(self, spec):
        """The model, its own and the optimiser's state and the generators are all that a step depends on."""
        whole, parts = tiny_mlp(dtype=torch.float32), tiny_mlp(dtype=torch.float32)
        one, first = (methods.find(spec).prepare(m, cross_entropy, 3) for m in (whole, parts))
        for _ in range(4):
            one(tiny_batch(torch.float32), 0.05)
        for _ in range(2):
            first(tiny_batch(torch.float32), 0.05)
        fresh = tiny_mlp(1, dtype=torch.float32)
        second = methods.find(spec).prepare(fresh, cross_entropy, 99)
        fresh.load_state_dict(parts.state_dict())
        second.load_state(first.state())
        for own, kept in zip(second.generators(), first.generators(), strict=True):
            own.set_state(kept.get_state())
        for _ in range(2):
            second(tiny_batch(torch.float32), 0.05)
        assert weights_hash(fresh) == weights_hash(whole)

    def test_learning_rate_0_leaves_the_weights(self, spec):
        model = tiny_mlp()
        before = flat(list(model.parameters()))
        step = methods.find(spec).prepare(model, cross_entropy, seed=0)
        step(tiny_batch(), 0.0)
        moved = float((flat(list(model.parameters())) - before).norm())
        assert moved <= 1e-14 * bool(step.tolerance), "a method in place is back but for rounding"

    def test_learning_rate_may_change_from_step_to_step(self, spec):
        model, batch = tiny_mlp(), tiny_batch()
        step = methods.find(spec).prepare(model, cross_entropy, seed=0)
        for learning_rate in (0.1, 1e-3):
            before, gradient = copy.deepcopy(model), reverse_gradient(model, batch)
            step(batch, learning_rate)
            moved = (flat(list(before.parameters())) - flat(list(step.parameters))) / learning_rate
            wanted = flat(step.expected(gradient, before, batch))
            off = float((moved - wanted).norm() / wanted.norm())
            assert off < max(1e-9, step.tolerance), learning_rate

    def test_its_parameters_are_the_models_trainable_ones_in_order(self, spec):
        model = tiny_mlp()
        step = methods.find(spec).prepare(model, cross_entropy, seed=0)
        wanted = [p.data_ptr() for p in model.parameters() if p.requires_grad]
        assert [p.data_ptr() for p in step.parameters] == wanted
