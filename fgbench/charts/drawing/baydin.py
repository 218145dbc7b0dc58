"""Runtime by depth as Baydin et al. 2022 published it, to stand beside what was measured here.

Fig. 6 of "Gradients without Backpropagation" (arXiv 2202.08587): MLP, every layer 1024 wide, mean of
ten runs, on the authors' own forward-mode engine and device; digitised, ±3 %.
"""

from __future__ import annotations

from fgbench.charts.drawing.comparison import Comparison
from fgbench.plan.config import REFERENCE

SOURCE = "Baydin et al. 2022, Fig. 6 (digitised)"
DEPTHS = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
R_FORWARD = (2.53, 2.68, 2.93, 3.15, 3.33, 3.33, 3.45, 3.48, 3.87, 3.94, 4.20, 4.17)
R_BACKPROP = (4.58, 4.62, 4.82, 4.76, 4.70, 4.71, 4.58, 4.50, 4.86, 4.87, 5.01, 4.93)
RATIO = (0.555, 0.58, 0.61, 0.66, 0.71, 0.71, 0.755, 0.775, 0.80, 0.81, 0.84, 0.85)


def applies(comparison: Comparison) -> bool:
    """Whether the same model was measured: an MLP of width 1024, over backprop."""
    setup = comparison.setup
    return bool(setup["arch"] == "mlp" and setup["width"] == 1024 and setup["reference"] == REFERENCE)
