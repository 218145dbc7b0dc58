"""R split into the parts of a step, from parts.csv."""

from __future__ import annotations

import pandas as pd

from fgbench.store.run_folder import RunFolder
from fgbench.store.schema import Role

WHOLE = "whole"
ORDER = ("draw", "forward", "forward and backward", "backward", "backward and update", "update")


def split(run: RunFolder) -> pd.DataFrame:
    """A row for each part of each method's step.

    Columns: `group`, `method`, `part`, `seconds` (median over processes), `share` (of the sum of the parts),
    `r` (that share of R) and `off` (the share by which the sum of the parts is above whole steps timed in the
    same rounds).

    Raises:
        ResultsError: a table is damaged.
    """
    columns = ["group", "method", "part", "seconds", "share", "r", "off"]
    parts = run.read("parts")
    if parts.empty:
        return pd.DataFrame(columns=columns)
    ratios = run.read("ratios")
    own = ratios[ratios["role"] == Role.METHOD].set_index(["group", "method"])["r"]
    key = ["group", "method"]
    seconds = parts.groupby([*key, "part"], sort=False)["seconds"].median().reset_index()
    whole = seconds[seconds["part"] == WHOLE].set_index(key)["seconds"]
    found = seconds[seconds["part"] != WHOLE].copy()
    total = found.groupby(key)["seconds"].transform("sum")
    found["share"] = found["seconds"] / total
    at = pd.MultiIndex.from_frame(found[key])
    found["r"] = found["share"] * own.reindex(at).to_numpy()
    found["off"] = total / whole.reindex(at).to_numpy() - 1
    place = found["part"].map({name: index for index, name in enumerate(ORDER)})
    # Methods are sorted by first appearance, and their parts as they follow each other in a step.
    met = found.groupby(key, sort=False).ngroup()
    return found.assign(met=met, place=place).sort_values(["met", "place"])[columns].reset_index(drop=True)
