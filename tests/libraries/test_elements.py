"""A process of elements: exact at its nodes, right between them with few spectra, and honest about its error."""

from __future__ import annotations

import pytest
import torch
from torch.func import jacfwd

from maury.libraries.coefficients import from_settings
from maury.libraries.elements import MAIN, ElementProcess, Kernel, fit_kernel, leave_one_out

D, N = MAIN + 3, 200


def truth(x):
    """Five outputs: smooth in the main labels, and lines of three elements whose response depends on them."""
    main, e = x[:, :MAIN], x[:, MAIN:]
    smooth = torch.sin(main @ torch.linspace(-0.8, 0.8, MAIN).to(x))[:, None] * torch.arange(1.0, 6.0).to(x)
    response = 0.3 * torch.exp(0.5 * main[:, :1] - 0.3 * main[:, 2:3]) * (e + 0.2 * e**2).sum(1, keepdim=True)
    return 0.02 * (smooth + response * torch.tensor([1.0, 0, 2, 0, 1]).to(x))


@pytest.fixture(scope="module")
def nodes():
    x = 2 * torch.quasirandom.SobolEngine(D, scramble=True, seed=1).draw(N + 50, dtype=torch.float64) - 1
    return x[:N], x[N:]


@pytest.fixture(scope="module")
def kernel(nodes):
    values = truth(nodes[0])
    centred = values - values.mean(0)
    return fit_kernel(nodes[0], centred @ centred.T / 5, 40)


@pytest.fixture(scope="module")
def process(nodes, kernel):
    x = nodes[0]
    residual = leave_one_out(kernel, x) @ truth(x)
    return ElementProcess.of(kernel, x, truth(x), residual.square().mean(1).sqrt())


def test_it_predicts_what_it_has_not_seen(nodes, process):
    error = process(nodes[1]) - truth(nodes[1])
    assert error.square().mean().sqrt() < 0.05 * truth(nodes[1]).std()


def test_its_error_is_that_of_spectra_left_out(nodes, process):
    error = (process(nodes[1]) - truth(nodes[1])).square().mean(1).sqrt()
    ratio = error / process.error(nodes[1])
    assert 0.5 < ratio.square().mean().sqrt() < 2


def test_leaving_out_is_leaving_out(nodes, kernel):
    x, y = nodes[0], truth(nodes[0])
    rest = ElementProcess.of(kernel, x[1:], y[1:], torch.ones(N - 1, dtype=torch.float64))
    expected = y[0] - rest(x[:1])[0]
    torch.testing.assert_close((leave_one_out(kernel, x) @ y)[0], expected, rtol=1e-5, atol=1e-8)


def test_it_is_the_mean_of_its_kernel(nodes, kernel, process):
    x, y = nodes[0], truth(nodes[0])
    covariance = kernel(x, x) + kernel.nugget * torch.eye(N, dtype=torch.float64)
    expected = kernel(nodes[1], x) @ torch.linalg.solve(covariance, y)
    torch.testing.assert_close(process(nodes[1]), expected, rtol=1e-8, atol=1e-8)


def test_a_kernel_is_one_whatever_the_labels():
    kernel = Kernel(D).requires_grad_(False)
    torch.nn.init.normal_(kernel.mixing, std=0.3, generator=torch.Generator().manual_seed(0))
    x = torch.rand(60, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert torch.linalg.eigvalsh(kernel(x, x)).min() > -1e-9


def test_derivatives_exist_at_a_node(nodes, process):
    x = nodes[0][3]
    slope = jacfwd(lambda v: process(v[None])[0])(x)
    step = 1e-5 * torch.eye(D, dtype=torch.float64)
    numeric = (process(x + step) - process(x - step)).T / 2e-5
    torch.testing.assert_close(slope, numeric, rtol=1e-3, atol=1e-4)


def test_it_survives_its_settings(nodes, process):
    again = from_settings(process.settings(), D, 5)
    again.load_state_dict({k: v.float() for k, v in process.state_dict().items()})
    torch.testing.assert_close(again(nodes[1]), process(nodes[1]), rtol=1e-3, atol=1e-4)


def test_slopes_in_closed_form_are_those_of_differentiation(process, nodes):
    x = nodes[1][:6]
    expected = torch.stack([jacfwd(lambda y: process(y[None])[0])(row) for row in x]).mT
    found = process.slopes(x, torch.eye(D, dtype=torch.float64).expand(len(x), -1, -1))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    single = process.slopes(x, torch.eye(D).expand(len(x), -1, -1))
    assert float((single - expected).abs().max()) < 1e-3 * float(expected.abs().max())
