"""Labels that are inferred, held or tied, and products of several spectra."""

import pytest
import torch

from maury.likelihood.pixels import Likelihood
from maury.likelihood.ties import Product, Tied


@pytest.fixture(scope="module")
def point(truth):
    return torch.cat([truth[0], torch.tensor([0.02], dtype=torch.float64)])


@pytest.fixture
def pixels(visit, forward, labels):
    return Likelihood.of(visit, forward, labels)


def test_held_labels_are_those_of_the_whole(pixels, point):
    free = [0, 2, 5]
    held = Tied.holding(pixels, point, free)
    at = point[free][None] * 1.001
    everything = point[None].clone()
    everything[:, free] = at
    assert torch.equal(held.complete(at), everything)
    assert torch.equal(held.log_prob(at), pixels.log_prob(everything))
    found, whole = held.curvature(at), pixels.curvature(everything)
    assert torch.equal(found.gradient, whole.gradient[:, free])
    assert torch.equal(found.fisher, whole.fisher[:, free][:, :, free])
    assert held.n_pixels == pixels.n_pixels
    assert held.parts == (held,)


def test_rows_may_hold_values_of_their_own(pixels, point):
    values = point.repeat(3, 1)
    values[:, 1] += torch.tensor([0.0, 0.1, 0.2])
    held = Tied.holding(pixels, values, [0, 5])
    assert torch.equal(held.complete(values[:, [0, 5]]), values)


def test_a_label_may_follow_another(pixels, point):
    """An element that follows m_h: what moves both is the sum of their slopes."""
    one = Tied.free(pixels, 7)
    together = one.tied(
        torch.tensor([0, 1, 2, 2, 3, 4, 5]),
        torch.tensor([1, 1, 1, 0.5, 1, 1, 1]).double(),
        torch.zeros(7).double(),
    )
    labels = point[[0, 1, 2, 4, 5, 6]][None]
    assert float(together.complete(labels)[0, 3]) == pytest.approx(0.5 * float(point[2]))
    whole = pixels.curvature(together.complete(labels))
    found = together.curvature(labels)
    assert float(found.gradient[0, 2]) == pytest.approx(
        float(whole.gradient[0, 2] + 0.5 * whole.gradient[0, 3])
    )
    f = whole.fisher[0]
    expected = f[2, 2] + f[2, 3] + 0.25 * f[3, 3]
    assert float(found.fisher[0, 2, 2]) == pytest.approx(float(expected))


def test_ties_of_ties_are_ties(pixels, point):
    held = Tied.holding(pixels, point, [0, 1, 2, 4])
    moved = held.tied(
        torch.tensor([0, 1, 2, 3]),
        torch.tensor([1.0, 1, 1, 0.9]).double(),
        torch.tensor([0.0, 0, 0, -3]).double(),
    )
    labels = torch.tensor([[4800.0, 2.6, -0.1, 40.0]], dtype=torch.float64)
    inner = labels * torch.tensor([1, 1, 1, 0.9]) + torch.tensor([0, 0, 0, -3.0])
    torch.testing.assert_close(moved.complete(labels), held.complete(inner))


def test_slopes_of_the_product(visit, forward, labels, truth):
    """Gradients of the joint likelihood by central differences, through a velocity that is shared after a linear map."""
    one = torch.cat([truth[0], torch.tensor([0.02], dtype=torch.float64)])
    likelihood = Likelihood.of(visit, forward, labels).with_reference_continuum(one)
    whole = Tied.free(likelihood, 7)
    parts = [
        whole.tied(torch.tensor([0, 1, 2, 3, 5, 4, 6]), torch.ones(7).double(), torch.zeros(7).double()),
        whole.tied(
            torch.tensor([0, 1, 2, 3, 5, 4, 7]),
            torch.tensor([1, 1, 1, 1, 0.5, 1, 1]).double(),
            torch.tensor([0, 0, 0, 0, one[4] / 2, 0, 0]).double(),
        ),
    ]
    joint = Product(parts)
    point = torch.cat([one[[0, 1, 2, 3, 5, 4, 6]], one[6:]])
    assert float(joint.log_prob(point[None])) == pytest.approx(2 * float(likelihood.log_prob(one[None])))
    found = joint.curvature(point[None])
    step = torch.tensor([2.0, 0.01, 0.01, 0.01, 0.05, 0.05, 1e-4, 1e-4], dtype=torch.float64)
    for i in range(8):
        ends = point.repeat(2, 1)
        ends[0, i] -= step[i]
        ends[1, i] += step[i]
        low, high = joint.log_prob(ends)
        assert float(found.gradient[0, i] * step[i]) == pytest.approx(
            float(high - low) / 2, rel=0.05, abs=0.05
        )
    torch.testing.assert_close(found.fisher[0], found.fisher[0].T)
    assert joint.n_pixels == 2 * likelihood.n_pixels
