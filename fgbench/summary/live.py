"""The ratio so far, cheap enough to follow a run: only a display, never a result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fgbench.measurement.statistics import median_interval


class LiveRatios:
    """Log ratios of each method to the reference, round by round, all processes pooled."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self.logs: dict[str, list[float]] = {}

    def add(self, samples: Sequence[dict[str, Any]]) -> None:
        """Take in the samples of one round: `arm` and `seconds` of each."""
        seconds = {sample["arm"]: sample["seconds"] for sample in samples}
        over = seconds.get(self.reference)
        for arm, value in seconds.items():
            if over is not None and arm not in (self.reference, "base", "aa"):
                self.logs.setdefault(arm, []).append(math.log(value / over))

    def __str__(self) -> str:
        """As in `forward 1.83 ± 0.02 × backprop`."""
        texts = []
        for method, logs in self.logs.items():
            ratio = median_interval(logs).exponentiated()
            spread = f" ± {(ratio.high - ratio.low) / 2:.2f}" if ratio.has_interval else ""
            texts.append(f"{method} {ratio.value:.2f}{spread}")
        return f"{', '.join(texts)} × {self.reference}" if texts else ""
