"""How far two samples of a posterior differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maury.posterior.summary import weighted_quantile

# Mass on each side beyond which densities are not compared, and how far beyond, in widths.
_TAIL, _MARGIN = 5e-4, 0.2


def c2st(a: NDArray[np.float64], b: NDArray[np.float64], *, folds: int = 5, seed: int = 0) -> float:
    """Classifier two-sample score: held-out accuracy of a network that tells the samples apart; 0.5 if it cannot.

    Lopez-Paz & Oquab 2017, arXiv:1610.06545, with the classifier that the benchmark of Lueckmann et al. 2021, arXiv:2101.04653, made
    usual: two hidden layers of ten times the dimension.

    Parameters
    ----------
    a, b
        Equally weighted draws, shape ``(n, n_labels)`` each; of the longer sample the first are used.
    folds
        Of the cross-validation.
    seed
        Of network and folds.
    """
    # A second to import.
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    n = min(len(a), len(b))
    scale = b[:n].std(0)
    x = np.concatenate([a[:n], b[:n]])
    x = (x - b[:n].mean(0)) / np.where(scale > 0, scale, 1)
    y = np.repeat([0, 1], n)
    width = 10 * x.shape[1]
    classifier = MLPClassifier(
        (width, width), max_iter=1000, solver="adam", early_stopping=True, random_state=seed
    )
    split = KFold(folds, shuffle=True, random_state=seed)
    return float(cross_val_score(classifier, x, y, cv=split).mean())


def _quantile(draws: NDArray[np.float64], weights: NDArray[np.float64] | None, q: float) -> float:
    equal = np.full(len(draws), 1 / len(draws))
    return weighted_quantile(draws, equal if weights is None else weights, q)


def jensen_shannon(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    weights_a: NDArray[np.float64] | None = None,
    weights_b: NDArray[np.float64] | None = None,
    n_points: int = 512,
) -> float:
    """Jensen-Shannon divergence of two densities of one label, in nats, from draws ``(n,)`` smoothed by Gaussian kernels.

    As in the comparisons of gravitational-wave samplers (Romero-Shaw et al. 2020, arXiv:2006.00714), where 2 millinats of 5,000 draws are
    taken for the scatter of sampling. Draws are reflected at the ends of their common range, since posteriors may lean on a bound.
    """
    from scipy.special import rel_entr
    from scipy.stats import gaussian_kde

    ends = min(a.min(), b.min()), max(a.max(), b.max())
    if ends[0] == ends[1]:
        return 0.0
    # A few draws of no weight lie far out, as a proposal's must: the points are spent where there is mass.
    samples = [(a, weights_a), (b, weights_b)]
    inner = [[_quantile(draws, weights, q) for draws, weights in samples] for q in (_TAIL, 1 - _TAIL)]
    margin = _MARGIN * (max(inner[1]) - min(inner[0]))
    low, high = max(ends[0], min(inner[0]) - margin), min(ends[1], max(inner[1]) + margin)
    x = np.linspace(low, high, n_points)
    densities = []
    for draws, weights in samples:
        smooth = gaussian_kde(draws, weights=weights)
        density = smooth(x) + smooth(2 * ends[0] - x) + smooth(2 * ends[1] - x)
        densities.append(density / density.sum())
    p, q = densities
    middle = 0.5 * (p + q)
    return float(0.5 * (rel_entr(p, middle).sum() + rel_entr(q, middle).sum()))
