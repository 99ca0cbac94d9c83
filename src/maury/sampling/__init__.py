"""From any log density and proposal to verified draws; it knows no star.

Examples
--------
>>> import torch
>>> from torch.distributions import Independent, Normal
>>> from maury import sampling
>>> rough = Independent(Normal(torch.zeros(2).double(), 3.0), 1)
>>> found = sampling.verify(lambda x: -0.5 * (x - 1).square().sum(1), rough)
>>> bool(found.khat < 0.7)
True
"""

from maury.sampling.verification import Refined, verify

__all__ = ["Refined", "verify"]
