"""A folder of runs that never were, with names that a page has to escape."""

from __future__ import annotations

import json
from pathlib import Path

from fgbench.store.run_folder import RunFolder
from tests.builders import run_folder, tiny_group

SCRIPT = "<script>document.title='owned'</script>"
METHODS = ("backprop", "forward", f"forward:{SCRIPT}")


def results(root: Path) -> Path:
    """Two depths timed, one trained, and a paper with a claim of each verdict."""
    groups = [tiny_group(depth=depth, dataset=f"digits{SCRIPT}") for depth in (2, 10)]
    run = run_folder(
        root,
        groups,
        command=f"fgbench run --method '{METHODS[-1]}'",
        config={"methods": list(METHODS)},
    )
    for number, group in enumerate(groups):
        for place, method in enumerate(METHODS):
            _timed(run, group.name, method, 1.0 + place * (1 + number))
    _trained(run, groups[0].name)
    run.finish("done")
    _paper(root / "paper")
    return root


def _timed(run: RunFolder, group: str, method: str, ratio: float) -> None:
    own = {"group": group, "method": method}
    cells = {"r": 3 * ratio, "ratio": ratio}
    ends = {f"{n}_{end}": v * f for n, v in cells.items() for end, f in (("low", 0.95), ("high", 1.05))}
    if method == METHODS[0]:
        ends |= {"ratio_low": 1.0, "ratio_high": 1.0}
    run.append(
        "ratios",
        {**own, "role": "method", "reference": METHODS[0], "seconds": 0.01 * ratio, **cells, **ends}
        | {"processes": 3, "rounds": 30, "stopped": "precision"},
    )
    run.append("memory", {**own, "kind": "peak_allocated", "bytes": int(2**20 * ratio)})
    counts = {"flops": 1, "bytes": 1, "operations": 1, "floor_seconds": 0.005 * ratio}
    run.append("cost", {**own, **counts})
    worth = {"weights": "start", "iteration": 0, "layer": "all", "draws": 8, "unbiased": True, "status": "ok"}
    moments = {"cosine": 0.5 / ratio, "second_moment": 7.0, "second_moment_large": ratio, "along_large": 1.0}
    run.append("quality", {**own, **worth, **moments})
    common = {**own, "role": "method", "process": 0, "position": 0, "warm_up": False, "steps": 1}
    run.append("samples", *({**common, "round": r, "seconds": 0.01 * ratio + r * 1e-5} for r in range(30)))


def _trained(run: RunFolder, group: str) -> None:
    for method, speed in (("backprop", 3), ("forward", 1)):
        for seed in (1, 2):
            own = {"job": f"{group}/{method}/train/{seed}", "group": group, "method": method, "seed": seed}
            run.append("jobs", {**own, "phase": "train", "learning_rate": 0.1, "status": "ok"})
            run.append(
                "curves",
                *(
                    {**own, "iteration": i, "train_seconds": i * 0.1, "evaluation_seconds": i * 0.01}
                    | {"validation_loss": 2.3 - 0.05 * speed * i, "validation_accuracy": 0.5}
                    for i in range(12)
                ),
            )
            run.append(
                "targets",
                {**own, "target_loss": 1.8, "outcome": "reached", "seconds": 1.0 / speed, "iterations": 10}
                | {"resolution_seconds": 0.1},
            )


def _paper(folder: Path) -> None:
    folder.mkdir()
    (folder / "claims.json").write_text(
        json.dumps({"paper": "a1900", "source": "Somebody 1900", "scale": "laptop", "claims": []})
    )
    verdicts = ("reproduced", "not reproduced: the other way round", "not comparable: measure longer")
    rows = [f"| fig1 | claim {SCRIPT} | 0.5 (text) [R] | 1.2 [1.1, 1.3] | {v} |" for v in verdicts]
    (folder / "claims.md").write_text("\n".join(["| | claim |", "|---|", *rows]) + "\n")
