"""Every flow is a density: it integrates to 1, and its draws are distributed as it says."""

import pytest
import torch
from pydantic import TypeAdapter

from maury.networks.context import LaplaceFrame
from maury.networks.flows import OF_LAPLACE, FlowConfig, Scale

FLOWS = {
    "maf": {"kind": "maf", "transforms": 3, "hidden": [32]},
    "maf-located": {"kind": "maf", "transforms": 3, "hidden": [32], "located": True},
    "maf-mixture": {"kind": "maf-mixture", "transforms": 3, "hidden": [16, 16], "components": 2},
    "nsf": {"kind": "nsf", "transforms": 2, "bins": 6, "hidden": [16]},
    "nsf-plain": {"kind": "nsf", "transforms": 2, "bins": 6, "hidden": [16], "located": False},
    "coupling": {"kind": "coupling", "transforms": 2, "bins": 6, "hidden": [16]},
    "flow-matching": {"kind": "flow-matching", "hidden": [32]},
}


@pytest.fixture(params=FLOWS)
def flow(request):
    torch.manual_seed(1)
    config = TypeAdapter(FlowConfig).validate_python(FLOWS[request.param])
    built = config.build(2, 3)
    # Weights far enough from their start that the density is not Gaussian.
    for parameter in built.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return built.eval().requires_grad_(False)


def grid_around(flow, context, n=241, reach=9.0):
    """Points ``(n^2, 2)`` that cover the density, and the area of each."""
    draws = flow.sample(4000, context)
    centre, spread = draws.median(0).values, draws.std(0)
    axes = [c + s * torch.linspace(-reach, reach, n) for c, s in zip(centre, spread, strict=True)]
    area = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    return torch.cartesian_prod(*axes), area


def test_density_integrates_to_one(flow):
    context = torch.randn(3, generator=torch.Generator().manual_seed(2))
    points, area = grid_around(flow, context)
    density = flow.log_prob(points, context.expand(len(points), -1)).exp()
    assert float(density.sum() * area) == pytest.approx(1, abs=5e-3)


def test_draws_are_distributed_as_the_density_says(flow):
    """Bounded functions of the labels, and their products, have the same means over draws and over the density on a grid."""
    context = torch.randn(3, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(4)
    draws = flow.sample(20_000, context)
    points, area = grid_around(flow, context)
    weights = flow.log_prob(points, context.expand(len(points), -1)).exp() * area
    centre, spread = draws.median(0).values, draws.std(0)
    near, far = (torch.tanh((x - centre) / spread) for x in (draws, points))
    assert ((near.mean(0) - weights @ far).abs() < 0.02).all()
    products = near.T @ near / len(near), (far * weights[:, None]).T @ far
    assert ((products[0] - products[1]).abs() < 0.02).all()


def test_one_label_is_enough():
    for name, settings in FLOWS.items():
        if name == "maf-mixture":
            continue  # Refused: its context would not reach the label (test_paper.py).
        flow = TypeAdapter(FlowConfig).validate_python(settings).build(1, 3)
        assert flow.sample(5, torch.zeros(3)).shape == (5, 1)


@pytest.mark.parametrize("n_labels", [2, 5])
@pytest.mark.parametrize("kind", ["maf", "maf-located", "nsf", "coupling", "flow-matching"])
@pytest.mark.parametrize("hidden", [[40, 24], [16]])
def test_draws_of_many_spectra_are_what_the_transforms_say(kind, n_labels, hidden):
    """Pushed in one pass, each spectrum by its own context: as zuko's inverse, evaluation by evaluation."""
    torch.manual_seed(7)
    settings = FLOWS[kind] | {"hidden": hidden}
    flow = TypeAdapter(FlowConfig).validate_python(settings).build(n_labels, 3).eval().requires_grad_(False)
    for parameter in flow.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    context, base = torch.randn(4, 3), torch.randn(4, 9, n_labels)
    location, log_scale = flow.locate(context[:, None])
    expected = flow.flow(context[:, None].expand(-1, 9, -1)).transform.inv(base)
    expected = location + torch.exp(log_scale) * expected
    torch.testing.assert_close(flow.push(base, context), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["nsf", "maf"])
def test_even_draws_have_the_same_quantiles(kind):
    """Over many shifts, means of the quantiles of 64 even draws are those of the density; those of a normal base scatter less."""
    flow = TypeAdapter(FlowConfig).validate_python(FLOWS[kind]).build(2, 3)
    torch.manual_seed(3)
    independent, even = (
        torch.stack([flow.base(64, even).quantile(0.84, dim=0) for _ in range(300)]) for even in (False, True)
    )
    assert ((independent.mean(0) - even.mean(0)).abs() < 0.05).all()
    assert (even.std(0) < (1.2 if kind == "maf" else 0.5) * independent.std(0)).all()


def test_flow_matching_learns_a_density():
    """Two labels, the second twice the context off the first: after a few hundred steps the likelihood is near the truth's."""
    torch.manual_seed(0)
    flow = TypeAdapter(FlowConfig).validate_python({"kind": "flow-matching", "hidden": [64, 64]}).build(2, 1)
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)

    def data(n):
        c, x = torch.randn(n, 1), 0.3 * torch.randn(n, 2)
        x[:, 1] = x[:, 0] + 2 * c[:, 0] + 0.1 * torch.randn(n)
        return x, c

    for _ in range(400):
        optimizer.zero_grad()
        flow.loss(*data(256)).mean().backward()
        optimizer.step()
    flow.eval().requires_grad_(False)
    best = -torch.log(torch.tensor(0.3 * 0.1)) - 1 - torch.log(torch.tensor(2 * torch.pi))
    assert float(flow.log_prob(*data(500)).mean()) > float(best) - 0.35


def test_scale_is_bounded_and_starts_where_told():
    with pytest.raises(ValueError, match="low < start < high"):
        Scale(low=2, start=1)
    flow = TypeAdapter(FlowConfig).validate_python({"kind": "nsf", "located": OF_LAPLACE}).build(2, 3)
    for parameter in flow.head[-1].parameters():
        torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(flow.locate(torch.zeros(1, 3))[1].exp(), torch.ones(1, 2))


def test_laplace_frame_is_a_bijection():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(5, 3, 3, generator=generator, dtype=torch.float64)
    factor = torch.linalg.cholesky(a @ a.mT + torch.eye(3))
    centre = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    frame = LaplaceFrame(centre, factor)
    u = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    z, log_det = frame.to_flow(u)
    torch.testing.assert_close(frame.from_flow(z), u)
    expected = torch.linalg.slogdet(torch.func.vmap(torch.func.jacrev(lambda x, f: x @ f))(u, factor))[1]
    torch.testing.assert_close(log_det, expected)
    # In z the Gaussian approximation is N(0, I).
    precision = factor @ factor.mT
    offset = u - centre
    torch.testing.assert_close(z.square().sum(1), (offset[:, None] @ precision @ offset[..., None])[:, 0, 0])
