"""Entries: what a run's ratios are, when they are comparable, and the mean of several runs."""

from __future__ import annotations

import dataclasses
import math
import shutil

import pytest

from fgbench.regression.baseline import read_baseline, write_baseline
from fgbench.regression.checking import Answer, check
from fgbench.regression.difference import RUNTIME, differences
from fgbench.regression.entries import apart_from, entries_of, entries_of_run
from fgbench.regression.entry import pooled
from fgbench.regression.history import histories
from fgbench.regression.rerun import configs_of
from fgbench.store.repeats import named
from fgbench.store.run_folder import RunFolder
from fgbench.store.schema import Role
from tests.builders import config
from tests.charts import made_up
from tests.charts.made_up import METHODS, group
from tests.regression.test_checking import ENTRY


def timed(root, **changes):
    run = made_up.run(root, [group(8)], trained=False)
    aa = {"group": group(8).name, "method": METHODS[0], "role": "aa", "reference": METHODS[0], "processes": 5}
    run.append("ratios", {**aa, "ratio": 1.004, "ratio_low": 0.99, "ratio_high": 1.02, **changes})
    facts = run.facts()
    facts["config"]["processes"] = 5
    run._write(facts)
    return run


def test_the_cells_of_a_run_are_its_ratios_and_its_own_noise(tmp_path):
    entries = entries_of([timed(tmp_path)])
    assert [c.method for c in entries] == sorted(METHODS[1:])
    for entry in entries:
        ratio = made_up.ratio(entry.method, 8)
        assert (entry.ratio, entry.low, entry.high) == pytest.approx((ratio, 0.9 * ratio, 1.1 * ratio))
        assert (entry.degrees, entry.threads, entry.torch, entry.fault) == (4, "2", "2.0.0", "")
        assert entry.floor == pytest.approx(0.02)


def test_of_several_runs_it_is_the_mean_with_the_spread_between_them(tmp_path):
    runs = [timed(tmp_path / name, ratio_high=high) for name, high in (("1", 1.02), ("2", 1.04), ("3", 1.1))]
    alone = entries_of(runs[:1])[0]
    entry = entries_of(runs)[0]
    assert (entry.ratio, entry.runs, entry.degrees) == (pytest.approx(alone.ratio), 3, 2)
    reaches = [math.log(high / 0.99) / 2 for high in (1.02, 1.04, 1.1)]
    together = math.sqrt(sum(r * r for r in reaches)) / 3
    assert math.log1p(entry.floor) == pytest.approx(math.log(1.004) + together), "three runs know it better"
    assert entry.rounds == 3 * alone.rounds
    assert entry.spread == 0.0
    reach = 4.303 * alone.within / math.sqrt(3)
    assert math.log(entry.high / entry.ratio) == pytest.approx(reach, rel=1e-3), (
        "processes differ all the same"
    )


def with_repeats(root):
    """Two runs and a third, a copy of the third, and a run that the first two were merged into."""
    first, second, third = (timed(root / name) for name in ("1", "2", "3"))
    copy = RunFolder(shutil.copytree(third.path, root / "copy"))
    merged = timed(root / "4")
    parts = [named(run, run.facts()) for run in (first, second)]
    merged._write({**merged.facts(), "merged": parts})
    return [first, second, third, copy, merged], [first, second, third]


def test_copies_and_what_was_merged_of_others_are_left_out_with_a_line_that_says_so(tmp_path, capsys):
    runs, own = with_repeats(tmp_path)
    found = entries_of(runs)
    (line,) = capsys.readouterr().err.splitlines()
    reasons = [
        f"{runs[4].path} was merged from others that are here",
        f"{runs[3].path} is a copy of {own[2].path}",
    ]
    assert line == f"fgbench: left out, as other runs have the same processes: {'; '.join(reasons)}"
    assert found == entries_of(own)
    assert {entry.runs for entry in found} == {3}
    assert not capsys.readouterr().err


def test_runs_that_a_baseline_was_made_from_are_not_judged_beside_later_ones(tmp_path, capsys):
    """A later run that is slower would be one of six, and the mean of all hardly slower."""
    runs = [timed(tmp_path / name) for name in "123"]
    write_baseline(tmp_path / "b.csv", entries_of(runs[:2]))
    baseline = read_baseline(tmp_path / "b.csv")
    assert apart_from(baseline, runs) == runs[2:]
    said = capsys.readouterr().err
    assert "as the baseline was made from them" in said
    assert all((str(run.path) in said) == (run in runs[:2]) for run in runs)
    assert apart_from(baseline, runs[:2]) == runs[:2], "judged by itself: nothing else was measured"
    assert apart_from([dataclasses.replace(entry, ids="") for entry in baseline], runs) == runs
    assert capsys.readouterr().err == ""


def test_pooling_takes_means_of_logarithms_leaves_faults_out_and_heeds_the_latest_contract():
    then = [dataclasses.replace(ENTRY, ratio=ratio, runs=1, spread=0.0, within=0.0) for ratio in (1.0, 4.0)]
    entry = pooled(then)
    assert (entry.ratio, entry.spread) == pytest.approx((2.0, math.log(4) / math.sqrt(2)))
    faulty = dataclasses.replace(then[0], ratio=math.nan, fault="A/A failed")
    assert pooled([*then, faulty]) == entry
    assert pooled([faulty]).fault == "A/A failed"
    other = dataclasses.replace(then[0], contract="c1")
    assert pooled([*then, other]) == other


def test_a_run_s_slowed_repeats_are_cells_of_their_own(tmp_path):
    run = timed(tmp_path)
    slow = {"group": group(8).name, "method": METHODS[1], "role": "slowed", "reference": METHODS[0]}
    run.append("ratios", slow | {"processes": 5, "rounds": 30, "ratio": 9, "ratio_low": 8, "ratio_high": 10})
    (entry,) = entries_of_run(run, Role.SLOWED)
    assert (entry.method, entry.ratio, entry.runs) == (METHODS[1], 9.0, 1)
    assert entry.ratio not in {c.ratio for c in entries_of([run])}


def test_what_is_trained_from_where_and_within_what_is_part_of_what_a_ratio_is(tmp_path):
    whole, part = timed(tmp_path / "1"), timed(tmp_path / "2")
    facts = part.facts()
    own = {"trained": "lora:rank=8", "start": "start.pt", "memory_budget": 2**20}
    part._write({**facts, "groups": [{**g, **own} for g in facts["groups"]]})
    then, now = entries_of([whole])[0], entries_of([part])[0]
    assert then.identity != now.identity
    assert now.label.endswith(", training lora:rank=8, from start.pt, within 1 MiB")
    write_baseline(tmp_path / "b.csv", [now])
    (read,) = read_baseline(tmp_path / "b.csv")
    assert read.identity == now.identity
    (again,) = configs_of([read], config())
    assert (again.trained, again.start, again.memory_budget) == tuple(own.values())
    assert len(histories([whole, part], 0.0)) == 2 * len(METHODS[1:])
    assert all(d.why.startswith("only in") for d in differences([whole], [part])), "nothing is compared"


def test_runs_of_one_process_that_were_merged_have_the_degrees_of_their_number(tmp_path):
    """There was no pilot: the interval is over all processes."""
    run = timed(tmp_path)
    facts = run.facts()
    run._write({**facts, "config": {**facts["config"], "processes": 1}})
    (entry, *_) = entries_of_run(run)
    assert entry.degrees == 5 - 1
    assert entry.within > 0


def off(root, low):
    return timed(root, ratio=low + 0.01, ratio_low=low, ratio_high=low + 0.02)


def test_what_cannot_be_judged_has_a_fault(tmp_path):
    assert {c.fault.split(":")[0] for c in entries_of([off(tmp_path / "off", 1.03)])} == {"A/A failed"}
    assert {c.fault for c in entries_of([off(tmp_path / "near", 1.01)])} == {""}, "less than matters"
    assert {c.fault for c in entries_of([timed(tmp_path / "wide", ratio=1.2, ratio_high=1.5)])} == {""}
    none = made_up.run(tmp_path / "none", [group(8)], timed=False)
    assert {c.fault for c in entries_of([none])} >= {"not measured"}


def test_without_an_interval_of_the_a_a_repeat_the_noise_floor_is_unknown(tmp_path):
    then, none = entries_of([timed(tmp_path / "then")]), timed(tmp_path / "none")
    table = none.read("ratios")
    table = table[table["role"] != Role.AA].astype(object)
    none.replace("ratios", table.where(table.notna(), None).to_dict("records"))
    for run in (none, timed(tmp_path / "wide", ratio_low=None, ratio_high=None)):
        entries = entries_of([run])
        assert {entry.fault for entry in entries} == {
            "no interval of the A/A repeat: how noisy the machine was is unknown"
        }
        assert {verdict.answer for verdict in check(then, entries, 0.05)} == {Answer.INVALID}
        assert {d.words for d in differences([run], [run]) if d.figure == RUNTIME} == {"not comparable"}


@pytest.mark.parametrize("ends", [(math.inf,) * 3, (0.0,) * 3, (-1.0, -2.0, 1.0), (1.0, None, None)])
def test_a_ratio_that_cannot_be_one_is_a_fault_and_no_crash(tmp_path, ends):
    runs = [timed(tmp_path / name) for name in ("1", "2")]
    for run in runs:
        table = run.read("ratios").astype(object)
        table.loc[table["method"] == METHODS[1], ["ratio", "ratio_low", "ratio_high"]] = ends
        run.replace("ratios", table.where(table.notna(), None).to_dict("records"))
    faults = {entry.method: entry.fault for entry in entries_of(runs)}
    assert faults[METHODS[1]].startswith("damaged: ratios.csv")
    assert not faults[METHODS[2]]


@pytest.mark.parametrize(
    ("throttle", "fault"), [("power", ""), ("power+thermal", "throttled in 50% of blocks")]
)
def test_a_power_cap_is_how_a_gpu_runs_and_no_fault(tmp_path, throttle, fault):
    run = timed(tmp_path)
    block = {"group": group(8).name, "method": METHODS[1], "role": "method", "process": 0, "position": 0}
    block |= {"warm_up": False, "steps": 10, "seconds": 0.1, "sm_clock_mhz": 1500}
    for number in range(10):
        run.append("samples", block | {"round": number, "throttle": throttle if number % 2 else ""})
    assert {entry.fault for entry in entries_of([run])} == {fault}


def test_what_best_chose_is_in_the_cell_of_the_method_and_its_reference(tmp_path):
    run = timed(tmp_path)
    facts = run.facts()
    for of in facts["groups"]:
        of["execution"] = "best"
    run._write(facts)
    for method in METHODS:
        mode = "eager" if method == METHODS[0] else "compile"
        row = {"group": group(8).name, "method": method, "phase": "time", "execution": mode, "status": "ok"}
        run.append("jobs", {"job": method, **row})
    assert {c.chosen for c in entries_of([run])} == {"compile / eager"}
