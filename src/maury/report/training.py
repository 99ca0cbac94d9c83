"""How training went, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from maury.figures import new_figure
from maury.report.plots import BLUE, draw_picture
from maury.training.fit import validation_curve


def loss_figure(steps: Sequence[int], nats: Sequence[float]) -> Figure:
    """Draw validation log density against training steps."""
    figure = new_figure(7, 4)
    axis = figure.subplots()
    axis.plot(steps, nats, color=BLUE, marker="o", ms=3)
    axis.set_xlabel("training step")
    axis.set_ylabel("mean log density of the truth [nats]")
    axis.set_title("validation spectra, density over u (prior = N(0, 1))", fontsize=11)
    axis.grid(alpha=0.3)
    return figure


def draw_loss(folder: Path) -> Path | None:
    """Draw how training in a folder went; return the picture's path, if it could be drawn."""
    return draw_picture(folder / "loss.png", lambda: loss_figure(*validation_curve(folder)))
