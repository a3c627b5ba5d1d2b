"""Stress adapter and heterogeneity field: configuration, storage, bounds, groups of particles."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from physgym.errors import DataError
from physgym.sim.mpm import MpmModel, MpmParameters
from physgym.sim.mpm.adapted_solver import neighbour_groups
from physgym.sim.mpm.heterogeneity import HeterogeneityConfig, HeterogeneityField
from physgym.sim.mpm.stress_adapter import AdapterConfig, StressAdapter

CONFIGS = (
    AdapterConfig(),
    AdapterConfig(shared_trunk=True, evaluations_per_frame=4, clusters=7),
    AdapterConfig(shared_trunk=False, evaluations_per_frame=None, strength=0.15, hidden=16),
    AdapterConfig(pre=False, redistribution=False),
)


def points(count=200, seed=0):
    return np.random.default_rng(seed).uniform([-0.1, 0.0, 0.2], [0.1, 0.05, 0.5], (count, 3))


def trained(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor += 0.3 * torch.randn(tensor.shape, generator=generator)
    return module


@pytest.mark.parametrize("config", CONFIGS)
def test_an_adapter_comes_back_as_it_was_stored(config):
    adapter = trained(StressAdapter(config, stress_scale_pa=12345.678, seed=1))
    arrays = adapter.to_arrays()
    assert all(name.startswith("adapter.") for name in arrays)
    assert all(a.dtype == np.float32 for a in arrays.values())
    back = StressAdapter.from_arrays({**arrays, "other": np.zeros(3)})
    assert back.config == config
    f = torch.eye(3) + 0.1 * torch.randn(10, 3, 3, generator=torch.Generator().manual_seed(0))
    tau = 1e3 * (f + f.mT)
    assert torch.equal(back.stress(f, tau), adapter.stress(f, tau))
    assert not torch.equal(back.stress(f, tau), tau)


def broken(arrays, name):
    some = next(n for n, a in arrays.items() if a.ndim == 2)
    number = next(n for n in arrays if n.endswith("config.hidden"))
    if name == "missing":
        return {n: a for n, a in arrays.items() if n != some}, some
    if name == "misshapen":
        return {**arrays, some: arrays[some][:-1]}, some
    if name == "not finite":
        return {**arrays, some: np.full_like(arrays[some], np.nan)}, some
    if name == "unknown":
        prefix = some.split(".")[0]
        return {**arrays, f"{prefix}.more": np.zeros(3)}, f"{prefix}.more"
    if name == "unknown number":
        return {**arrays, f"{number}s": np.zeros(())}, f"{number}s"
    if name == "no number":
        return {n: a for n, a in arrays.items() if n != number}, number
    return {**arrays, number: np.array(np.inf, np.float32)}, number


@pytest.mark.parametrize(
    "name",
    ["missing", "misshapen", "not finite", "unknown", "unknown number", "no number", "infinite"],
)
def test_damaged_arrays_are_refused_by_name(name):
    for module in (
        StressAdapter(AdapterConfig(hidden=8), stress_scale_pa=1e4, seed=0),
        HeterogeneityField.around(points()),
    ):
        arrays, culprit = broken(module.to_arrays(), name)
        with pytest.raises(DataError) as error:
            type(module).from_arrays(arrays)
        assert culprit in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"strength": 1.0},
        {"strength": -0.1},
        {"hidden": 0},
        {"evaluations_per_frame": 0},
        {"clusters": 0},
        {"clusters": 5, "evaluations_per_frame": None},
    ],
)
def test_impossible_configurations_are_refused(change):
    with pytest.raises(DataError):
        replace(AdapterConfig(), **change)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_stress_scales_are_refused(scale):
    with pytest.raises(DataError, match="stress_scale_pa"):
        StressAdapter(AdapterConfig(), stress_scale_pa=scale, seed=0)
    arrays = StressAdapter(AdapterConfig(), stress_scale_pa=1.0, seed=0).to_arrays()
    with pytest.raises(DataError, match="stress_scale_pa"):
        StressAdapter.from_arrays(
            {**arrays, "adapter.stress_scale_pa": np.array(scale, np.float32)}
        )


def test_the_seed_alone_decides_the_weights():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two, other = (
        StressAdapter(AdapterConfig(), stress_scale_pa=1.0, seed=s) for s in (3, 3, 4)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    pairs = list(zip(one.parameters(), two.parameters(), other.parameters()))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


def test_groups_are_of_neighbours_and_of_one_size():
    x = points(1000)
    group = neighbour_groups(x, 37)
    count = np.bincount(group)
    assert len(count) == 37
    assert count.max() - count.min() <= 6  # rounding at each of six halvings
    spread = np.mean([np.ptp(x[group == g], axis=0).max() for g in range(37)])
    # 37 boxes of equal volume in this body have sides of about a third of its longest one.
    assert spread < 0.45 * np.ptp(x, axis=0).max()
    assert len(np.unique(neighbour_groups(x[:5], 37))) == 5


def test_an_untrained_field_is_one_everywhere():
    x = points()
    field = HeterogeneityField.around(x)
    factors = field.factors(torch.tensor(x))
    assert torch.equal(factors, torch.ones(1, len(x)))
    assert field.regulariser(torch.tensor(x)) == (0.0, 0.0)


def test_the_field_is_bounded_smooth_and_unchanged_by_scale():
    x = points()
    field = trained(HeterogeneityField.around(x, HeterogeneityConfig(bound=0.4)))
    with torch.no_grad():
        field.head.weight *= 30.0
        factors = field.factors(torch.tensor(x))
        assert factors.min() > 0.6 - 1e-6
        assert factors.max() < 1.4 + 1e-6
        assert factors.max() - factors.min() > 0.4
        near = field.factors(torch.tensor(x + 1e-5))
        # A ten-thousandth of the body's size changes h by little.
        assert (near - factors).abs().max() < 0.02
        larger = HeterogeneityField.around(10.0 * x, HeterogeneityConfig(bound=0.4))
        larger.net.load_state_dict(field.net.state_dict())
        larger.head.load_state_dict(field.head.state_dict())
        assert torch.allclose(larger.factors(torch.tensor(10.0 * x)), factors, atol=1e-5)


def test_regulariser_of_a_constant_and_of_a_known_field():
    x = torch.tensor(points())
    field = HeterogeneityField.around(x.numpy())
    with torch.no_grad():
        field.head.bias.fill_(0.3)
    penalty = [term.detach() for term in field.regulariser(x)]
    h = 0.5 * np.tanh(0.3)
    assert [float(term) for term in penalty] == pytest.approx([h**2, 0.0], rel=1e-6, abs=1e-12)
    trained(field)
    penalty, h = field.regulariser(x), field(x).detach().numpy()
    assert penalty.mean_squared.item() == pytest.approx(h.mean() ** 2, rel=1e-5)
    assert penalty.variance.item() == pytest.approx(h.var(), rel=1e-5)


def test_the_field_scales_stiffness_and_yield_stress_and_gets_a_gradient():
    x = points(50)
    model = MpmModel(x, 1e-6, 0.02)
    field = trained(HeterogeneityField.around(x))
    factors = field.factors(torch.tensor(x))
    parameters = MpmParameters.of(young_pa=2e4).replace(heterogeneity=factors)
    parameters.check(model, 1)
    made = parameters.coefficients(model)
    plain = MpmParameters.of(young_pa=2e4).coefficients(model)
    for name in ("mu", "lam", "yield_stress"):
        assert torch.allclose(getattr(made, name), getattr(plain, name) * factors)
    made.mu.sum().backward()
    assert field.head.weight.grad.norm() > 0.0


def test_a_field_comes_back_as_it_was_stored():
    x = torch.tensor(points())
    config = HeterogeneityConfig(bound=0.3, hidden=8, octaves=1)
    field = trained(HeterogeneityField.around(x.numpy(), config))
    back = HeterogeneityField.from_arrays(field.to_arrays())
    assert back.config == config
    assert torch.equal(back.factors(x), field.factors(x))
    assert all(name.startswith("heterogeneity.") for name in field.to_arrays())


@pytest.mark.parametrize("bound", [0.0, 1.0])
def test_impossible_fields_are_refused(bound):
    with pytest.raises(DataError):
        HeterogeneityConfig(bound=bound)
    with pytest.raises(DataError, match="box"):
        HeterogeneityField(np.ones(3), np.zeros(3))
