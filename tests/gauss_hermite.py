"""APOGEE's line-spread function in pixel space, for comparison."""

from math import factorial

import numpy as np
from numpy.polynomial import hermite_e, legendre, polynomial
from scipy.stats import norm


def profile(row, x0, y):
    """The survey's profile at offsets ``y`` (pixels) from a line at ``x0``, its bin integrated by Gauss-Legendre."""
    bin_size, offset, orders = row[0], row[1], int(row[2])
    widths = row[3 : 4 + orders].astype(int) + 1
    ends = np.cumsum(widths) + 4 + orders
    sigma, *h = (polynomial.polyval(x0 + offset, row[e - w : e]) for e, w in zip(ends, widths, strict=True))
    share, wing = row[-2:]
    series = [1.0, *h] / np.sqrt([factorial(n) for n in range(orders + 1)])
    nodes, weights = legendre.leggauss(24)
    out = np.zeros_like(y)
    for node, weight in zip(nodes, weights, strict=True):
        at = y + node * bin_size / 2
        core = hermite_e.hermeval(at / sigma, series) * norm.pdf(at / sigma) / sigma
        out += weight / 2 * ((1 - share) * core + share * norm.pdf(at / wing) / wing)
    return out
