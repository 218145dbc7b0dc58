"""The plan: the grid, the contract, and every bad input as one line before anything is measured."""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import nullcontext
from typing import ClassVar

import pytest
import torch

from fgbench import architectures
from fgbench.errors import ResultsError, UsageError
from fgbench.measurement.environment import usable_cores
from fgbench.plan import Config, Group, machine, make_plan
from fgbench.plan.checks import check_device
from fgbench.plan.contract import contract
from fgbench.plan.machine import resolve_device, resolve_threads
from fgbench.store.csv_table import table_of_rows
from tests.builders import TINY_DATA, config, tiny_group

ENVIRONMENT = {
    "device": "cpu",
    "device_name": "a processor",
    "libraries": {"torch": "2.15.1"},
    "usable_cores": 4,
    "cuda": "13.0",
    "load_1min": 0.3,
}
ON_GPU = {**ENVIRONMENT, "device": "cuda:0", "cudnn": 91000, "gpu": {"power_limit_watts": 700.0}}

GOOD = """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn

@dataclass
class Size:
    width: int

print("imported")

def build(depth, width, in_shape, classes):
    print("building")
    size = Size(width)
    layers = [nn.Linear(36, size.width), nn.BatchNorm1d(width), nn.Linear(width, classes)]
    return nn.Sequential(nn.Flatten(), *layers)
"""


def message(**changes: object) -> str:
    with pytest.raises(UsageError) as caught:
        make_plan(config(**changes))
    text = str(caught.value)
    assert "\n" not in text
    return text


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "line"),
        [
            ({"archs": ("lenet",)}, "no architecture 'lenet': choose from cnn, logreg, mlp"),
            ({"archs": ()}, "--arch: name at least one"),
            ({"methods": ("telepathy",)}, "no method 'telepathy': choose from backprop, "),
            ({"methods": ()}, "--method: name at least one"),
            ({"methods": ("forward:structure=odd",)}, "must be one of gaussian, rademacher"),
            ({"methods": ("forward:colour=red",)}, "forward has no option 'colour'"),
            ({"methods": ("forward", "forward:structure=gaussian")}, "--method forward is given twice"),
            ({"dataset": "imagenet"}, "no dataset 'imagenet': choose from cifar10, digits"),
            ({"dataset": "digits:size=3"}, "digits has no option 'size': it has no options"),
            ({"dataset": "synthetic:samples=1"}, "synthetic:samples=1: must be at least 8"),
            ({"depths": (0,)}, "--depth 0: must be at least 1"),
            ({"depths": (2, -3)}, "--depth -3: must be at least 1"),
            ({"archs": ("logreg",), "depths": (2,)}, "--depth 2: the depth of logreg is 1; leave"),
            ({"archs": ("resnet",), "depths": (18, 50)}, "--depth 50: the depth of resnet is 10, 18 or 34;"),
            ({"width": 0}, "--width 0: must be at least 1"),
            ({"width": -5}, "--width -5: must be at least 1"),
            ({"batch": 0}, "--batch 0: must be at least 1"),
            ({"batch": 65}, f"--batch 65: {TINY_DATA} has only 64 training samples"),
            ({"validation_size": 0}, "--validation-size 0: must be at least 1"),
            ({"threads": 0}, "--threads 0: must be at least 1"),
            ({"threads": 100_000}, f"--threads 100000: must be at most {usable_cores()}, the cores"),
            ({"seeds": 0}, "--seeds 0: must be at least 1"),
            ({"processes": 0}, "--processes 0: must be at least 1"),
            ({"target_loss": "0"}, "--target-loss 0: must be a positive number"),
            ({"target_loss": "-1"}, "--target-loss -1: must be a positive number"),
            ({"target_loss": "nan"}, "--target-loss nan: must be a positive number"),
            ({"target_loss": "inf"}, "--target-loss inf: must be a positive number"),
            ({"target_loss": "low"}, "way as in 50%, or one of auto, backprop-best."),
            ({"target_loss": "half%"}, "--target-loss half%: must be a number, a share of"),
            ({"target_loss": "0%"}, "--target-loss 0%: a share must be above 0% and at most 100%."),
            ({"target_loss": "1.0,low"}, "--target-loss low: must be a number, a share of"),
            ({"target_accuracy": "90"}, "--target-accuracy 90: must be above 0 and at most 1"),
            ({"target_accuracy": "0.5,x"}, "--target-accuracy x: must be a number"),
            (
                {"lr_decay": -1e-4},
                "--lr-decay -0.0001: must be a number from 0 on, step:every=1000,factor=0.1",
            ),
            ({"lr_decay": "cosine"}, "--lr-decay cosine: ends with the last step; give --max-iterations or"),
            ({"max_iterations": 0}, "--max-iterations 0: must be at least 1"),
            ({"max_queries": 0}, "--max-queries 0: must be at least 1"),
            ({"patience": 0}, "--patience 0: must be at least 1"),
            ({"learning_rate": (0.1, 0.2, 0.3)}, "--lr: 3 rates for 2 methods"),
            ({"learning_rate": (0.1, -0.2)}, "--lr -0.2: must be a positive number"),
            ({"evaluate_every": 0}, "--evaluate-every 0: must be at least 1"),
            ({"optimizer": "sgd|adam"}, "the learning-rate search chooses among several"),
            (
                {"optimizer": "sgd|adam", "learning_rate": None, "train": False},
                "leave --lr and --time-only out",
            ),
            ({"optimizer": "sgd|SGD", "learning_rate": None}, "--optimizer sgd is given twice"),
            ({"learning_rate": 0.0}, "--lr 0: must be a positive number"),
            ({"learning_rate": float("nan")}, "--lr nan: must be a positive number"),
            ({"precision": 0.0}, "--precision 0: must be a positive number"),
            ({"max_train_seconds": -1.0}, "--max-train-seconds -1: must be a positive number"),
            ({"max_measure_seconds": 0.0}, "--max-measure-seconds 0: must be a positive number"),
            ({"dtype": "float16"}, "--dtype float16: must be one of float32, float64, bfloat16"),
            ({"device": "cuda:99"}, "--device cuda:99: torch does not see it; it sees cpu"),
            ({"device": "tpu"}, "--device tpu: torch does not see it"),
            ({"dtype": "tf32"}, "--dtype tf32: only a GPU rounds to TF32"),
            ({"execution": "fast"}, "--exec fast: must be one of eager, compile, cudagraph, best"),
            ({"execution": "cudagraph"}, "--exec cudagraph: needs a GPU, and this is cpu"),
            (
                {"execution": "compile", "methods": ("forward:structure=activity",)},
                "--exec compile: forward:structure=activity cannot be compiled, and runs eagerly: leave",
            ),
            ({"shard": "3/2"}, "--shard 3/2: must be i/n"),
            ({"shard": "1"}, "--shard 1: must be i/n"),
            ({"shard": "2/2"}, "--shard 2/2: there are only 1 groups"),
            ({"time": False, "train": False}, "together leave nothing to do"),
            ({"archs": ("cnn",), "dataset": "synthetic:shape=1x3x3"}, "cnn needs images"),
        ],
        ids=str,
    )
    def test_is_said_in_one_line_with_what_would_be_right(self, changes, line):
        assert line in message(**changes)

    @pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0)])
    def test_tf32_is_refused_where_a_gpu_would_round_nothing(self, capability, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        refused = pytest.raises(UsageError, match="--dtype tf32: this GPU has no TF32")
        with refused if capability < (8, 0) else nullcontext():
            check_device(config(dtype="tf32"), "cuda:0")
        check_device(config(), "cuda:0")

    def test_a_cuda_graph_holds_one_learning_rate(self):
        for execution in ("cudagraph", "best"):
            with pytest.raises(UsageError, match="--lr-decay: a CUDA graph cannot change its learning rate"):
                check_device(config(lr_decay=1e-4, execution=execution), "cuda:0")
        check_device(config(lr_decay=1e-4, execution="best"), "cpu")


class TestUsersOwnArchitecture:
    def spec(self, folder, text: str, function: str = "build", name: str = "own.py") -> str:
        (folder / name).write_text(text)
        return f"{folder / name}:{function}"

    def test_a_good_file_is_planned_and_prints_nothing_on_standard_output(self, tmp_path, capsys):
        plan = make_plan(config(archs=(self.spec(tmp_path, GOOD),)))
        assert plan.groups[0].name == "own.build-d1-w16-b8"
        assert capsys.readouterr().out == ""

    def test_a_partial_of_a_function_is_one_too_and_its_file_is_hashed(self, tmp_path):
        text = GOOD + "\nfrom functools import partial\nown = partial(build)\n"
        spec = self.spec(tmp_path, text, "own")
        assert make_plan(config(archs=(spec,))).groups[0].name == "own.own-d1-w16-b8"
        before = architectures.source_digest(spec)
        assert before == architectures.source_digest(self.spec(tmp_path, text))
        self.spec(tmp_path, text + "# another\n", "own")
        assert architectures.source_digest(spec) != before

    def test_a_partial_of_another_modules_function_is_hashed_with_the_file_that_it_is_in(self, tmp_path):
        text = "from functools import partial\nfrom fgbench.architectures.mlp import build\n"
        spec = self.spec(tmp_path, text + "own = partial(build)\n", "own")
        before = architectures.source_digest(spec)
        self.spec(tmp_path, text + "own = partial(partial(build))\n", "own")
        assert architectures.source_digest(spec) != before

    def test_a_module_of_the_current_folder(self, tmp_path, monkeypatch):
        (tmp_path / "own_pack").mkdir()
        (tmp_path / "own_pack" / "models.py").write_text(GOOD)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        plan = make_plan(config(archs=("own_pack.models:build",)))
        assert plan.groups[0].name == "own_pack.models.build-d1-w16-b8"

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("def build(:", "does not import: SyntaxError"),
            ("import no_such_package_at_all", "does not import: ModuleNotFoundError"),
            ("1 / 0", "does not import: ZeroDivisionError"),
            ("raise SystemExit('bye')", "does not import: SystemExit: bye"),
            ("x = 1", "has no function 'build'"),
            ("build = 3", "has no function 'build'"),
            ("def build(*a):\n    raise ValueError('odd\\nsize')", "raised ValueError: odd"),
            ("def build(*a):\n    raise SystemExit(3)", "raised SystemExit: 3"),
            ("def build():\n    pass", "raised TypeError"),
            ("def build(*a):\n    return 3", "must give a torch.nn.Module, not int"),
            ("def build(*a):\n    pass", "must give a torch.nn.Module, not NoneType"),
            (
                "from torch import nn\ndef build(*a):\n    return nn.Flatten()",
                "no parameter that can be trained",
            ),
            (
                "from torch import nn\ndef build(*a):\n    return nn.Linear(36, 4)",
                "the model fails on a batch",
            ),
            (
                "from torch import nn\ndef build(*a):\n"
                "    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))\n"
                "    model.shape_of = nn.Linear(3, 3, device='meta')\n    return model",
                "the parameter shape_of.weight is on the meta device",
            ),
            (
                "import torch\nclass Energy(torch.nn.Linear):\n    def forward(self, x):\n"
                "        x = x.flatten(1).requires_grad_()\n"
                "        return torch.autograd.grad(super().forward(x).sum(), x)[0]\n"
                "def build(*a):\n    return Energy(36, 4)",
                "the model differentiates in its own forward pass",
            ),
            (
                "from torch import nn\ndef build(*a):\n"
                "    return nn.Sequential(nn.Flatten(), nn.Linear(36, 7))",
                "must give [batch, classes], here (2, 4), not (2, 7)",
            ),
        ],
    )
    def test_a_bad_one_is_one_line_that_names_the_file(self, tmp_path, text, line):
        found = message(archs=(self.spec(tmp_path, text),))
        assert line in found
        assert str(tmp_path / "own.py") in found

    def test_a_file_that_is_not_there(self, tmp_path):
        found = message(archs=(f"{tmp_path}/none.py:build",))
        assert found.endswith(f"there is no file {tmp_path}/none.py.")

    @pytest.mark.parametrize("spec", ["no_such_package_at_all:build", ":build", "torch.nope:build"])
    def test_a_module_that_is_not_there(self, spec):
        assert "does not import" in message(archs=(spec,))

    def test_two_files_of_one_name_are_not_taken_for_each_other(self, tmp_path):
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
        specs = tuple(self.spec(tmp_path / folder, GOOD) for folder in ("a", "b"))
        assert "would both be called own.build-d1-w16-b8" in message(archs=specs)

    def test_a_name_is_the_one_that_tables_give_back(self, tmp_path):
        (group,) = make_plan(config(archs=(self.spec(tmp_path, GOOD, name="my  own\tnet.py"),))).groups
        assert group.name == "my own net.build-d1-w16-b8"
        assert table_of_rows("memory", [{"group": group.name}])["group"].tolist() == [group.name]
        specs = tuple(self.spec(tmp_path, GOOD, name=name) for name in ("a b.py", "a  b.py"))
        assert "would both be called a b.build-d1-w16-b8" in message(archs=specs)

    def test_a_file_whose_name_is_not_utf_8_is_refused_in_one_line(self, tmp_path):
        """A worker could not be told it."""
        assert "this is not UTF-8" in message(archs=(self.spec(tmp_path, GOOD, name="m\udce9.py"),))
        for option in ("data_dir", "start", "dataset"):
            assert "this is not UTF-8" in message(**{option: "m\udce9"})

    def test_a_file_in_a_folder_whose_name_is_not_utf_8_is_hashed(self, tmp_path, monkeypatch):
        (tmp_path / "m\udce9").mkdir()
        (tmp_path / "m\udce9" / "odd_inner.py").write_text("x = 1\n")
        monkeypatch.syspath_prepend(str(tmp_path / "m\udce9"))
        spec = self.spec(tmp_path, f"{GOOD}\nimport odd_inner\n")
        before = architectures.source_digest(spec)
        (tmp_path / "m\udce9" / "odd_inner.py").write_text("x = 2\n")
        assert architectures.source_digest(spec) != before

    def test_checking_a_model_leaves_its_running_statistics(self, tmp_path):
        model = architectures.build(self.spec(tmp_path, GOOD), 1, 8, (1, 6, 6), 4)
        assert model.training
        assert int(model[2].num_batches_tracked) == 0


class TestGrid:
    def test_every_combination_is_a_group(self):
        plan = make_plan(config(archs=("mlp", "cnn"), depths=(1, 2), width=4))
        assert [(g.arch, g.depth) for g in plan.groups] == [("mlp", 1), ("mlp", 2), ("cnn", 1), ("cnn", 2)]
        assert len({g.name for g in plan.groups}) == 4

    def test_a_depth_given_twice_is_one_group(self):
        assert len(make_plan(config(depths=(1, 1))).groups) == 1

    @pytest.mark.parametrize("count", [1, 2, 3, 5])
    def test_shards_are_the_grid_each_group_in_one(self, count):
        grid = {"archs": ("mlp", "cnn"), "depths": (1, 2, 3), "width": 4}
        shards = [make_plan(config(**grid, shard=f"{i}/{count}")).groups for i in range(1, count + 1)]
        groups = [group for shard in shards for group in shard]
        assert len(groups) == len(set(groups)) == 6
        assert max(map(len, shards)) - min(map(len, shards)) <= 1

    def test_a_config_is_read_back_from_the_facts_it_was_stored_as(self):
        asked = config(depths=(1, 2), isolated=True, shard="1/2")
        stored = json.loads(json.dumps(dataclasses.asdict(asked)))
        assert Config.from_facts(stored) == asked
        with pytest.raises(ResultsError, match="not of this version"):
            Config.from_facts({**stored, "colour": "red"})

    def test_where_nothing_is_asked_for_it_is_the_architectures_own(self):
        (group,) = make_plan(config(archs=("logreg",), depths=None, width=None)).groups
        assert (group.depth, group.width) == (1, 1)

    def test_specs_are_in_their_shortest_form(self):
        plan = make_plan(
            config(methods=("backprop:update=best", "forward"), dataset="synthetic:classes=10,samples=64")
        )
        assert plan.config.methods == ("backprop", "forward")
        assert plan.groups[0].dataset == "synthetic:samples=64"

    def test_ratios_are_over_backprop_wherever_it_is_or_over_the_first(self):
        assert make_plan(config(methods=("forward", "backprop"))).reference == "backprop"
        assert make_plan(config(methods=("forward:structure=rademacher", "forward"))).reference == (
            "forward:structure=rademacher"
        )

    def test_device_and_threads_are_resolved(self):
        (group,) = make_plan(config(device="auto", threads=None)).groups
        assert group.device == ("cuda:0" if torch.cuda.is_available() else "cpu")
        assert group.threads == resolve_threads(None)
        assert resolve_device("cpu") == "cpu"

    @pytest.mark.parametrize(
        ("own", "usable", "threads"), [(64, 8, 7), (4, 8, 4), (8, 8, 7), (2, 2, 1), (1, 1, 1), (2, 1, 1)]
    )
    def test_torchs_own_number_of_threads_leaves_a_core_to_all_else(self, monkeypatch, own, usable, threads):
        monkeypatch.setattr(torch, "get_num_threads", lambda: own)
        monkeypatch.setattr(machine, "usable_cores", lambda: usable)
        assert resolve_threads(None) == threads


class TestContract:
    CHANGES: ClassVar[dict[str, object]] = {
        "arch": "cnn",
        "depth": 2,
        "width": 17,
        "batch": 9,
        "dataset": "digits",
        "validation_size": 17,
        "dtype": "float64",
        "device": "cuda:0",
        "threads": 2,
        "execution": "compile",
        "optimizer": "adam",
        "trained": "head",
        "memory_budget": 2**20,
    }

    def test_it_knows_every_field_of_a_group(self):
        own = {field.name for field in dataclasses.fields(Group)}
        assert set(self.CHANGES) == own - {"start"}, "a start counts by the hash of its weights"

    def test_a_later_field_at_its_default_leaves_it_as_it_was(self, monkeypatch):
        """Results from before there was one still compare: the hash of a group as it was then."""
        monkeypatch.setattr("fgbench.plan.contract.__version__", "1")
        monkeypatch.setattr("fgbench.plan.contract.conditions", lambda environment: {})
        before = "b040dbab2ef0"
        assert contract(tiny_group(), {"device_name": "x"}, "data") == before

    @pytest.mark.parametrize("name", CHANGES)
    def test_it_changes_with_each_field_of_the_group(self, name):
        other = tiny_group(**{name: self.CHANGES[name]})
        assert contract(other, ENVIRONMENT) != contract(tiny_group(), ENVIRONMENT)

    @pytest.mark.parametrize(
        ("where", "change"),
        [
            (ENVIRONMENT, {"device_name": "another"}),
            (ENVIRONMENT, {"libraries": {"torch": "2.15.2"}}),
            (ENVIRONMENT, {"usable_cores": 2}),
            (ON_GPU, {"cuda": "13.2"}),
            (ON_GPU, {"cudnn": 91100}),
            (ON_GPU, {"gpu": {"power_limit_watts": 350.0}}),
        ],
        ids=str,
    )
    def test_it_changes_with_the_machine_and_its_libraries(self, where, change):
        assert contract(tiny_group(), {**where, **change}) != contract(tiny_group(), where)

    def test_it_changes_with_the_data_and_with_fgbench(self, monkeypatch):
        before = contract(tiny_group(), ENVIRONMENT, "data")
        assert contract(tiny_group(), ENVIRONMENT, "other data") != before
        monkeypatch.setattr("fgbench.plan.contract.__version__", "99")
        assert contract(tiny_group(), ENVIRONMENT, "data") != before

    def test_it_changes_where_older_results_cannot_be_read(self, monkeypatch):
        before = contract(tiny_group(), ENVIRONMENT)
        monkeypatch.setattr("fgbench.plan.contract.OLDEST_READABLE", 99)
        assert contract(tiny_group(), ENVIRONMENT) != before

    @pytest.mark.parametrize("change", [{"load_1min": 9.0}, {"cuda": "13.2"}], ids=str)  # on a CPU
    def test_it_does_not_change_with_what_does_not_matter(self, change):
        assert contract(tiny_group(), {**ENVIRONMENT, **change}) == contract(tiny_group(), ENVIRONMENT)

    def test_it_changes_with_every_local_file_that_the_model_imports(self, tmp_path, monkeypatch):
        files = {
            "own.py": "from torch import nn\nimport local_pack.inner\n"
            "def build(*a):\n    from own_alone import made\n    return made()\n",
            "own_alone.py": "def made(): ...\n",
            "local_pack/__init__.py": "",
            "local_pack/inner.py": "from . import deep\nfrom .deep import size as s\nimport own_broken\n",
            "local_pack/deep.py": "size = 3\n",
            "own_broken.py": "x = 1\n",
            "not_imported.py": "",
        }
        (tmp_path / "local_pack").mkdir()
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        group = tiny_group(arch=f"{tmp_path}/own.py:build")
        before = contract(group, ENVIRONMENT)
        assert contract(group, ENVIRONMENT) == before
        for name, text in files.items():
            (tmp_path / name).write_text(text + "# changed\n")
            changed = contract(group, ENVIRONMENT) != before
            assert changed == (name != "not_imported.py"), name
            (tmp_path / name).write_text(text)
        assert contract(group, ENVIRONMENT) == before
