"""Summaries, ratios and samples of runs that never were."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

REFERENCE: dict[str, Any] = {
    "group": "mlp-d8-w1024-b64",
    "arch": "mlp",
    "dataset": "digits",
    "depth": 8,
    "width": 1024,
    "batch": 64,
    "dtype": "float32",
    "device": "cpu",
    "threads": 2,
    "execution": "eager",
    "mode": "eager",
    "optimizer": "sgd",
    "own_optimizer": "sgd",
    "device_name": "a processor",
    "method": "backprop",
    "reference": "backprop",
    "seconds": 0.03,
    "r": 3.0,
    "r_low": 2.9,
    "r_high": 3.1,
    "r_alone": None,
    "r_alone_low": None,
    "r_alone_high": None,
    "ratio": 1.0,
    "ratio_low": 1.0,
    "ratio_high": 1.0,
    "ratio_within_low": 0.99,
    "ratio_within_high": 1.01,
    "processes": 5,
    "rounds": 60,
    "stopped": "precision",
    "joules": None,
    "first_call_seconds": 0.05,
    "busy_share": None,
    "flops": None,
    "floor_ratio": None,
    "floor_share": None,
    "cosine": None,
    "second_moment": None,
    "n_predicted": None,
    "n_predicted_low": None,
    "n_predicted_high": None,
    "bound_by": None,
    "peak_bytes": 3 * 2**20,
    "chance_loss": math.log(10),
    "target_loss": 0.5,
    "target_accuracy": None,
    "reached": 3,
    "runs": 3,
    "missed": 0,
    "missed_seconds": 59.0,
    "t": 1.0,
    "t_low": 0.8,
    "t_high": 1.2,
    "t_ratio": 1.0,
    "t_ratio_low": 1.0,
    "t_ratio_high": 1.0,
    "n_ratio": 1.0,
    "n_ratio_low": 1.0,
    "n_ratio_high": 1.0,
    "learning_rate": 0.1,
    "validation_loss": 0.2,
    "validation_loss_low": 0.1,
    "validation_loss_high": 0.3,
    "validation_accuracy": 0.95,
    "lowest_loss": 0.2,
    "fall": 2.1,
    "diverged_share": 0.0,
    "protocol": "learning rate 0.1 for all; 60 s a run",
    "evaluation_share": 0.1,
    "t_resolution": 0.02,
    "train_seconds": 60.0,
    "least_train_seconds": 59.0,
    "t_median": 1.0,
    "status": "ok",
}
NO_AA = pd.DataFrame(columns=["group", "ratio", "reference"])


def group(**forward: Any) -> pd.DataFrame:
    """The reference, and forward as it but for what is given; what did not reach the target just ended."""
    own = {**REFERENCE, "method": "forward", **forward}
    if "missed" not in forward and own["runs"] is not None:
        own["missed"] = own["runs"] - own["reached"]
    return pd.DataFrame([REFERENCE, own])


def samples(*blocks: dict[str, Any]) -> pd.DataFrame:
    """A row for each block: of backprop, steady, in process 0, but for what it says itself."""
    plain = {
        "group": REFERENCE["group"],
        "method": "backprop",
        "role": "method",
        "process": 0,
        "round": 0,
        "position": 0,
        "warm_up": False,
        "steps": 1,
        "seconds": 1.0,
        "sm_clock_mhz": math.nan,
        "throttle": None,
    }
    return pd.DataFrame([{**plain, **block} for block in blocks], columns=list(plain))


def ratio_rows(*rows: dict[str, Any]) -> pd.DataFrame:
    """Rows of ratios.csv: of forward, but for what they say themselves."""
    plain = {
        "group": REFERENCE["group"],
        "method": "forward",
        "role": "method",
        "reference": "backprop",
        "ratio": 1.5,
        "ratio_low": 1.45,
        "ratio_high": 1.55,
        "r": 3.0,
        "r_low": 2.9,
        "r_high": 3.1,
        "r_alone": math.nan,
        "r_alone_low": math.nan,
        "r_alone_high": math.nan,
    }
    return pd.DataFrame([{**plain, **row} for row in rows], columns=list(plain))
