"""zuko's rational-quadratic splines, without its way of broadcasting: that imports a computer-algebra system, a second of every start."""

from __future__ import annotations

from torch import Tensor
from zuko.transforms import MonotonicRQSTransform


class Spline(MonotonicRQSTransform):
    """Monotonic rational-quadratic spline (Durkan et al. 2019, arXiv:1906.04032) whose parameters have the shape of its arguments."""

    def bin(self, k: Tensor) -> tuple[Tensor, ...]:
        """Return whether each argument is inside, and its bin's ends, values, slopes and mean slope."""
        inside = (k >= 0) & (k < self.bins)
        low = (k % self.bins)[..., None]

        def ends(knots: Tensor) -> tuple[Tensor, Tensor]:
            knots = knots.expand(*k.shape, -1)
            return knots.gather(-1, low)[..., 0], knots.gather(-1, low + 1)[..., 0]

        (x0, x1), (y0, y1), (d0, d1) = map(ends, (self.horizontal, self.vertical, self.derivatives))
        return inside, x0, x1, y0, y1, d0, d1, (y1 - y0) / (x1 - x0)
