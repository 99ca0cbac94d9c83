"""Empty figures. They are made without pyplot: no global state, no display."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class InlineFigure(Figure):
    """A figure, drawn by Agg, that a notebook shows where a cell ends with it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=80)
        return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure in inches."""
    return InlineFigure(figsize=(width, height), layout="constrained")
