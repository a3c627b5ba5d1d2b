"""Springs that pull their ends unlike and the ground of Spring-Gaus, against the float64 reference.

The chain is that of `test_spring_mass_gradients`: central differences check the reference, the
reference checks both engines, forward and backward.
"""

import dataclasses

import numpy as np
import pytest
import torch
from spring_mass_reference import reference_rollout

from physgym.errors import BlowUpError, DataError
from physgym.sim.contact import BoxCollider, GroundLaw, GroundPlane
from physgym.sim.spring_mass import (
    ForceLaw,
    SpringMassModel,
    SpringMassSolver,
    springs_from_points,
)
from physgym.sim.timestep import stable_step

SUBSTEPS, FRAME_S, FRAMES = 24, 0.012, 4
FACTOR_STEP_S = 8e-4  # a substep of 0.5 ms is no whole number of it
FITTED = (
    "log_stiffness", "rest_length_m", "dashpot_ns_per_m", "mass_kg", "drag_per_s", "eta",
    "asymmetry", "tangential_factor",
)  # fmt: skip
LEAVES = (*FITTED, "position", "velocity", "driven")


def scene(law=ForceLaw.SOFT, *, worlds=5, per_world=True, **changes):
    """A small cloud thrown at the ground, two nodes driven, ends pulled unlike; float32 numbers."""
    rng = np.random.default_rng(3)
    points = rng.uniform(0.0, 0.06, (21, 3)) + np.array([0.0, 0.0, 0.002])
    edges = springs_from_points(points, radius_m=0.05, max_neighbours=6)
    turned = rng.random(len(edges)) < 0.5  # a first end may be the higher node
    edges[turned] = edges[turned, ::-1]
    ground = GroundPlane(law=GroundLaw.FACTOR, factor_step_s=FACTOR_STEP_S)
    model = SpringMassModel(
        points,
        edges,
        **{"driven_index": np.array([4, 17]), "law": law, "ground": ground, "directed": True,
           "law_exponent": 1.3 if law is ForceLaw.POWER else 0.5, **changes},
    )  # fmt: skip
    stiffness = 6.0 if law is not ForceLaw.POWER else 100.0
    base = model.default_parameters(
        stiffness=stiffness, mass_kg=0.1, dashpot_ns_per_m=0.02, drag_per_s=2.0
    ).replace(tangential_factor=torch.tensor([0.9]), asymmetry=torch.zeros(1, len(edges)))
    count = worlds if per_world else 1
    leaves = {}
    for name in FITTED:
        value = getattr(base, name).double()
        value = value.expand(count, *value.shape[1:])
        if name == "dashpot_ns_per_m" and not per_world:
            value = value.expand(count, len(edges))
        leaves[name] = value * torch.as_tensor(rng.uniform(0.97, 1.0, value.shape))
    leaves["asymmetry"] = torch.as_tensor(rng.uniform(-1.0, 1.0, (count, len(edges))))
    x = torch.as_tensor(points).expand(worlds, -1, -1).clone()
    leaves["position"] = x + torch.as_tensor(rng.normal(0.0, 5e-4, x.shape)).abs()
    thrown = torch.tensor([0.5, 0.1, -0.6], dtype=torch.float64)
    leaves["velocity"] = thrown + torch.as_tensor(rng.normal(0.0, 0.2, x.shape))
    path = x[:, None, model.driven_index.copy()].repeat(1, FRAMES, 1, 1)
    leaves["driven"] = path + torch.as_tensor(rng.normal(0.0, 1e-3, path.shape)).cumsum(1)
    return model, base, {k: t.float().double() for k, t in leaves.items()}


def state(leaves):
    return leaves["position"], leaves["velocity"], leaves["driven"]


def given(base, leaves):
    return base.replace(**{k: leaves[k] for k in FITTED})


def by_engine(model, base, leaves, engine, **options):
    leaves = {k: t.float() for k, t in leaves.items()}
    options.setdefault("device", "cpu")
    solver = SpringMassSolver(
        model, given(base, leaves), worlds=len(leaves["position"]), substeps=SUBSTEPS,
        engine=engine, **options,
    )  # fmt: skip
    start = solver.initial_state(*state(leaves)[:2])
    out = solver.rollout(start, leaves["driven"].to(solver.device), FRAME_S)
    return out.position, out.velocity


def by_reference(model, base, leaves):
    return reference_rollout(model, given(base, leaves), *state(leaves), FRAME_S, SUBSTEPS)


@pytest.mark.parametrize("engine", ["plain", "native"])
@pytest.mark.parametrize("law", list(ForceLaw))
def test_engines_agree_with_the_reference(law, engine):
    model, base, leaves = scene(law)
    x, v = by_engine(model, base, leaves, engine)
    x64, v64 = by_reference(model, base, leaves)
    # As test_spring_mass_engines: ends feel at most 2500 N/m, nodes have 5 g, so one rounding of
    # 4e-9 m changes a velocity by 1e-6 m/s in a substep of 0.5 ms. 72 substeps of 6 springs as a
    # random walk are 2.3e-5 m/s; four times that, and what a tenth of a period makes of it.
    assert (x.double() - x64).abs().max() < 4e-7
    assert (v.double() - v64).abs().max() < 1e-4
    assert (x64[..., 2].abs() < 1e-12).any()  # the ground was met


def test_a_tilted_ground_is_met_by_all_engines():
    normal, offset_m = (-0.6, 0.0, 0.8), -0.045
    ground = GroundPlane(normal, offset_m, GroundLaw.FACTOR, FACTOR_STEP_S)
    model, base, leaves = scene(driven_index=np.zeros(0), ground=ground)
    x64, v64 = by_reference(model, base, leaves)
    height = x64 @ torch.tensor(normal, dtype=torch.float64) - offset_m
    assert (height[:, 1:].abs() < 1e-12).sum() >= 5
    for engine in ("plain", "native"):
        x, v = by_engine(model, base, leaves, engine)
        assert (x.double() - x64).abs().max() < 4e-7
        assert (v.double() - v64).abs().max() < 1e-4


def test_worlds_in_lanes_alone_and_shared_have_the_same_bits():
    model, base, leaves = scene(worlds=21)  # 16 lanes, 8 lanes of which 5 are used
    whole = by_engine(model, base, leaves, "native", threads=1)
    for worlds in ([0], [20], [3, 11]):  # each by itself
        part = {k: t[worlds] for k, t in leaves.items()}
        for a, b in zip(by_engine(model, base, part, "native", threads=1), whole, strict=True):
            assert torch.equal(a, b[worlds])
    model, base, leaves = scene(worlds=6, per_world=False)
    alike = {k: t.expand(6, *t.shape[1:]) for k, t in leaves.items()}
    for threads in (1, 6):
        shared = by_engine(model, base, leaves, "native", threads=threads)
        assert torch.equal(shared[0], by_engine(model, base, alike, "native", threads=threads)[0])


def test_ends_that_pull_alike_have_the_bits_of_a_model_that_knows_no_ends():
    for worlds in (1, 9):
        model, base, leaves = scene(worlds=worlds)
        leaves["asymmetry"] = torch.zeros(1, 1)
        plain = dataclasses.replace(model, directed=False)
        for engine in ("plain", "native"):
            a, b = (by_engine(m, base, leaves, engine) for m in (model, plain))
            assert torch.equal(a[0], b[0])
            assert torch.equal(a[1], b[1])


def weighed(x, v):
    """A loss that weighs every output differently; velocities in units of a frame."""
    rng = torch.Generator().manual_seed(11)
    wx, wv = (torch.randn(x.shape, generator=rng, dtype=torch.float64) for _ in range(2))
    return (x * wx).sum() + FRAME_S * (v * wv).sum()


def gradients(run, leaves, names=LEAVES):
    leaves = {k: t.clone().requires_grad_(k in names) for k, t in leaves.items()}
    weighed(*run(leaves)).backward()
    return {k: leaves[k].grad for k in names}


@pytest.mark.parametrize("name", LEAVES)
def test_the_reference_agrees_with_differences(name):
    model, base, leaves = scene()
    gradient = gradients(lambda one: by_reference(model, base, one), leaves, [name])[name]
    generator = torch.Generator().manual_seed(5)
    direction = torch.randn(leaves[name].shape, generator=generator, dtype=torch.float64)
    # A step of 1e-7 of a leaf's usual size keeps the contact set.
    direction *= leaves[name].abs().mean()
    ends = [
        weighed(*by_reference(model, base, {**leaves, name: leaves[name] + s * 1e-7 * direction}))
        for s in (1.0, -1.0)
    ]
    exact = float((gradient * direction).sum())
    # Round-off of the loss, about 1e-15 of its size over 2e-7, is 1e-8; truncation is smaller.
    assert abs(float(ends[0] - ends[1]) / 2e-7 - exact) < 1e-5 * max(abs(exact), 1e-3)
    assert exact != 0.0


@pytest.mark.parametrize("engine", ["plain", "native"])
@pytest.mark.parametrize(
    ("law", "worlds", "per_world"),
    [*((law, 5, True) for law in ForceLaw), (ForceLaw.SOFT, 1, True), (ForceLaw.SOFT, 5, False)],
)
def test_gradients_of_engines_agree_with_the_reference(law, worlds, per_world, engine):
    """Worlds in lanes (5) and alone (1); own parameters, and shared ones with a dashpot each."""
    model, base, leaves = scene(law, worlds=worlds, per_world=per_world)
    want = gradients(lambda one: by_reference(model, base, one), leaves)

    def run(one):
        return (t.double() for t in by_engine(model, base, one, engine, threads=1))

    got = gradients(run, leaves)
    for name in LEAVES:
        # As test_spring_mass_gradients: rounded positions are 4e-6 of a force, magnified a
        # hundredfold by 72 substeps and contact.
        error = (got[name] - want[name]).norm() / want[name].norm()
        assert error < 1e-3, f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("worlds", [1, 5])
def test_a_box_and_this_ground_are_turned_round_alike_by_both_engines(worlds):
    """A plate comes down; the engines share no code, and contact with boxes is tested apart."""
    model, base, leaves = scene(worlds=worlds, colliders=(BoxCollider((0.05, 0.05, 0.005), 0.002),))
    pose = torch.zeros(1, FRAMES + 1, 1, 7, dtype=torch.float64)
    pose[..., 3] = 1.0
    pose[0, :, 0, :3] = torch.tensor([0.03, 0.03, 0.065])
    pose[0, :, 0, 2] -= 0.008 * torch.arange(FRAMES + 1)
    leaves["driven"] = leaves["driven"][:, :1].expand(-1, FRAMES + 1, -1, -1)

    def run(engine, one):
        one = {k: t.float() for k, t in one.items()}
        solver = SpringMassSolver(
            model, given(base, one), worlds=worlds, substeps=SUBSTEPS, engine=engine, device="cpu"
        )
        start = solver.initial_state(one["position"], one["velocity"])
        out = solver.rollout(start, one["driven"], FRAME_S, collider_pose=pose)
        return out.position.double(), out.velocity.double()

    with torch.no_grad():
        free = by_engine(dataclasses.replace(model, colliders=()), base, leaves, "native")[0]
        assert (run("native", leaves)[0] - free).abs().max() > 1e-3  # the plate was met
    found = [gradients(lambda one, e=e: run(e, one), leaves) for e in ("plain", "native")]
    for name in LEAVES:
        error = (found[0][name] - found[1][name]).norm() / found[0][name].norm()
        assert error < 2e-3, f"{name}: {error:.2e}"  # twice that of one engine to the reference


def test_each_end_has_its_own_gradient():
    """Along K_ij and K_ji by differences of the native engine's own rollouts."""
    model, base, leaves = scene(ForceLaw.HOOKE, worlds=1, ground=None)
    stiff = (leaves["eta"] * leaves["log_stiffness"].exp()).expand(1, model.spring_count)
    pulls = torch.cat([stiff * (1 + leaves["asymmetry"]), stiff * (1 - leaves["asymmetry"])])

    def loss(both):
        ends = {"log_stiffness": torch.zeros(1, 1), "eta": both.mean(dim=0, keepdim=True)}
        ends["asymmetry"] = (both[0] - both[1]) / (both[0] + both[1])
        ends["asymmetry"] = ends["asymmetry"][None]
        return weighed(*(t.double() for t in by_engine(model, base, {**leaves, **ends}, "native")))

    leaf = pulls.clone().requires_grad_()
    loss(leaf).backward()
    largest = leaf.grad.abs().argmax(dim=1)
    for end in (0, 1):
        step = torch.zeros_like(pulls)
        step[end, largest[end]] = 0.05 * pulls[end, largest[end]]
        with torch.no_grad():
            slope = (loss(pulls + step) - loss(pulls - step)) / (2 * step.max())
        # 5 % of a stiffness bends the loss by 1e-3; float32 outputs are good to 1e-4 of the change.
        assert float(leaf.grad[end, largest[end]]) == pytest.approx(float(slope), rel=5e-3)


def test_a_node_on_the_ground_keeps_no_normal_speed_and_its_share_of_the_rest():
    """The boundary of Spring-Gaus by hand: five substeps, of which the last four touch."""
    ground = GroundPlane(law=GroundLaw.FACTOR, factor_step_s=1e-3)
    model = SpringMassModel(
        np.array([[0.0, 0, 0], [1.0, 0, 0]]), np.array([[0, 1]]), gravity_m_per_s2=(0, 0, 0),
        ground=ground,
    )  # fmt: skip
    base = model.default_parameters(stiffness=1e-9, mass_kg=1.0, restitution=0.9, friction=3.0)
    base = base.replace(tangential_factor=torch.tensor([0.7]))
    for engine in ("plain", "native"):
        solver = SpringMassSolver(model, base, substeps=1, engine=engine, device="cpu")
        low = torch.tensor([[0.0, 0, 0.0015], [1.0, 0, 0.0015]])
        start = solver.initial_state(low, torch.tensor([0.4, -0.3, -1.0]).expand(2, 3))
        out = solver.rollout(start, torch.zeros(1, 6, 0, 3), 1e-3)
        # Above after 1 ms; at 2 ms it would be 0.5 mm deep: put on the plane, then it slides.
        np.testing.assert_allclose(out.velocity[0, 1, 0], [0.4, -0.3, -1.0], rtol=1e-6)
        for t in range(2, 6):
            want = 0.7 ** (t - 1) * np.array([0.4, -0.3, 0.0])
            np.testing.assert_allclose(out.velocity[0, t, 0], want, rtol=1e-6, atol=1e-9)
            assert float(out.position[0, t, 0, 2]) == pytest.approx(0.0, abs=1e-9)
        # Position moves with the velocity before contact, as the authors' order has it.
        np.testing.assert_allclose(out.position[0, 2, 0, :2], [0.0008, -0.0006], atol=1e-8)


def sliding(factor, substeps):
    """Speed after 1 ms on the ground, from 1 m/s."""
    ground = GroundPlane(law=GroundLaw.FACTOR, factor_step_s=3e-4)
    model = SpringMassModel(np.array([[0.0, 0, 0], [1.0, 0, 0]]), np.array([[0, 1]]), ground=ground)
    base = model.default_parameters(stiffness=1e-9, mass_kg=1.0)
    solver = SpringMassSolver(
        model, base.replace(tangential_factor=factor), substeps=substeps, device="cpu"
    )
    thrown = torch.tensor([1.0, 0, 0]).expand(2, 3)
    start = solver.initial_state(torch.tensor(model.rest_position), thrown)
    return solver.rollout(start, torch.zeros(1, 2, 0, 3), 1e-3).velocity[0, 1, 0, 0]


@pytest.mark.parametrize("factor", [0.0, 1.0, 1.7, -0.2])
def test_factors_outside_their_range_are_its_ends_and_have_finite_slopes(factor):
    for substeps in (1, 7):  # powers above and below 1
        leaf = torch.tensor([factor], requires_grad=True)
        speed = sliding(leaf, substeps)
        assert speed.item() == float(factor > 0.0)
        speed.backward()
        assert bool(torch.isfinite(leaf.grad).all())


def test_friction_does_not_depend_on_the_substep():
    speed = [float(sliding(torch.tensor([0.8]), n)) for n in (1, 2, 50)]
    # Fifty float32 products.
    np.testing.assert_allclose(speed, 0.8 ** (1e-3 / 3e-4), rtol=1e-5)


@pytest.mark.parametrize("engine", ["plain", "native"])
def test_the_step_limit_of_directed_springs_is_one(engine):
    """An end that pulls with all, dense neighbours: the bound holds and is not far off."""
    rng = np.random.default_rng(1)
    points = rng.uniform(0.0, 0.1, (60, 3))
    edges = springs_from_points(points, radius_m=0.06, max_neighbours=12)
    model = SpringMassModel(
        points, edges, directed=True, law=ForceLaw.HOOKE, gravity_m_per_s2=(0, 0, 0)
    )
    side = torch.as_tensor(rng.uniform(-1.0, 1.0, (1, len(edges))), dtype=torch.float32)
    base = model.default_parameters(stiffness=100.0, mass_kg=0.06, drag_per_s=30.0)
    base = base.replace(asymmetry=side)
    ends = 100.0 * np.stack([1.0 + side[0].numpy(), 1.0 - side[0].numpy()], axis=1)
    limit = stable_step(edges, ends, np.zeros(len(edges)), np.full(60, 1e3))
    # The scalar network's own eigenvalues, of any phase.
    dense = np.zeros((60, 60))
    for (i, j), (a, b) in zip(edges, ends, strict=True):
        dense[i, i] += a
        dense[i, j] -= a
        dense[j, j] += b
        dense[j, i] -= b
    largest = np.abs(np.linalg.eigvals(1e3 * dense)).max()
    assert largest <= limit.omega_rad_per_s**2 <= 2.5 * largest
    jolt = torch.as_tensor(points + rng.normal(0.0, 1e-4, points.shape), dtype=torch.float32)
    safe = SpringMassSolver(model, base, engine=engine, device="cpu", safety=1.0)
    quiet = safe.rollout(safe.initial_state(jolt), torch.zeros(1, 40, 0, 3), 1e-3)
    assert float(quiet.velocity.abs().max()) < 1.0
    one = SpringMassSolver(model, base, engine=engine, device="cpu", substeps=1)
    with pytest.raises(BlowUpError, match="substeps"):
        one.rollout(one.initial_state(jolt), torch.zeros(1, 400, 0, 3), 10 * limit.dt_s)


def test_what_makes_no_sense_is_refused():
    model, base, _ = scene()
    with pytest.raises(DataError, match="asymmetry reaches 1"):
        SpringMassSolver(model, base.replace(asymmetry=torch.full((1, 1), -1.2)))
    alike = dataclasses.replace(model, directed=False)
    with pytest.raises(DataError, match="not directed"):
        SpringMassSolver(alike, base.replace(asymmetry=torch.full((1, 1), 0.1)))
    with pytest.raises(DataError, match="tangential_factor"):
        SpringMassSolver(model, base.replace(tangential_factor=torch.full((1,), float("nan"))))
    with pytest.raises(DataError, match="factor_step_s"):
        GroundPlane(law=GroundLaw.FACTOR, factor_step_s=0.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_cuda_agrees_with_cpu():
    model, base, leaves = scene()
    x, v = by_engine(model, base, leaves, "native")
    xg, vg = by_engine(model, base, leaves, "plain", device="cuda")
    assert (xg.cpu() - x).abs().max() < 8e-7  # the bound to the reference, once for each side
    assert (vg.cpu() - v).abs().max() < 2e-4
