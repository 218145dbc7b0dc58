"""A loss curve in one line of text, so that the table shows how training went."""

from __future__ import annotations

import numpy as np
import pandas as pd

BLOCKS = "▁▂▃▄▅▆▇█"
PLACES = 12


def sparklines(curves: pd.DataFrame) -> dict[str, str]:
    """By method, the median over seeds of the validation loss, over the longest run's training seconds.

    All methods have one scale: the lowest block is the lowest loss of them all, the highest where they
    began, or above.

    Args:
        curves: rows of curves.csv of one matched group.
    """
    if curves.empty or not curves["train_seconds"].max() > 0:
        return {}
    at = np.linspace(0, curves["train_seconds"].max(), PLACES)
    medians = {str(method): _median(own, at) for method, own in curves.groupby("method", sort=False)}
    top = float(np.median(curves[curves["iteration"] == 0]["validation_loss"]))
    bottom = min(float(losses.min()) for losses in medians.values())
    if not top > bottom:
        return {}
    return {method: _line(losses, bottom, top) for method, losses in medians.items()}


def _median(own: pd.DataFrame, at: np.ndarray) -> np.ndarray:
    """Losses at these seconds; after its end a run keeps its last loss, or the highest if it diverged."""
    runs = [
        np.interp(at, run["train_seconds"], run["validation_loss"].fillna(np.inf).clip(upper=1e9))
        for _, run in own.groupby("job", sort=False)
    ]
    return np.median(runs, axis=0)


def _line(losses: np.ndarray, bottom: float, top: float) -> str:
    share = np.clip((losses - bottom) / (top - bottom), 0, 1)
    return "".join(BLOCKS[round(float(place) * (len(BLOCKS) - 1))] for place in share)
