"""The ratio so far, for the progress display of a run; it is never stored as a result."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fgbench.measurement.statistics import median_interval


class LiveRatios:
    """Log ratios of each method to the reference, over the rounds of all processes so far."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self.logs: dict[str, list[float]] = {}

    def add(self, seconds: Mapping[str, float]) -> None:
        """Take in one round: the seconds of a step of each method."""
        over = seconds.get(self.reference)
        for method, value in seconds.items():
            if over is not None and method != self.reference:
                self.logs.setdefault(method, []).append(math.log(value / over))

    def __str__(self) -> str:
        """The ratios in words, as in `forward 1.83 ± 0.02 × backprop`."""
        texts = []
        for method, logs in self.logs.items():
            ratio = median_interval(logs).exponentiated()
            spread = f" ± {(ratio.high - ratio.low) / 2:.2f}" if ratio.has_interval else ""
            texts.append(f"{method} {ratio.value:.2f}{spread}")
        return f"{', '.join(texts)} × {self.reference}" if texts else ""
