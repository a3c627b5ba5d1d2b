"""Spring-Gaus as the authors' code has it: what `parity` makes of springs and ground."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from video_cases import DT_S, GROUND, MASS_KG, Drop, drop

from physgym.errors import BlowUpError, TwinError
from physgym.grip import Grip, simulate_gripped
from physgym.sim.build import network_of
from physgym.sim.contact import GroundLaw, GroundPlane
from physgym.sim.spring_mass import SpringMassSolver
from physgym.splats.skinning import bind
from physgym.surroundings import surrounded
from physgym.twin import Twin
from recon.compare.cloud_scores import squared_cd
from recon.identify.anchor_rollouts import AnchorBody, AnchorPhysics, AnchorRollouts
from recon.identify.anchors import (
    anchor_springs,
    asymmetry_of,
    soft_vector,
    tangential_factor,
    volume_sample,
)
from recon.identify.spring_gaus_config import SpringGausConfig
from recon.identify.spring_gaus_dynamic import Dynamics
from recon.identify.spring_gaus_scan import start_values
from recon.identify.spring_gaus_twin import TwinParts, make_twin
from recon.identify.video_loss import LossWeights, VideoLoss
from recon.identify.video_start import Flight
from recon.metrics import emd
from recon.simulate_commands import Simulate

CONFIG = SpringGausConfig(parity=True, mass_kg=MASS_KG)
FRAMES = 8
VELOCITY = torch.tensor([0.4, 0.0, -0.9])


def block(count: int = 60, *, directed: bool, ground: GroundPlane | None, gravity=-9.81):
    """Anchors of a block 2 cm above z = 0, each joined to its 24 nearest, 8 of them certain."""
    rng = np.random.default_rng(2)
    at = volume_sample(rng.uniform(0.0, 0.1, (1500, 3)) * (1.0, 0.8, 0.6) + (0, 0, 0.02), count)
    springs = anchor_springs(at, neighbours=24, certain=8)
    none = np.zeros(len(at), bool)
    down = np.array([0.0, 0.0, gravity])
    return AnchorBody(at, springs, MASS_KG, 0.5, down, ground, none, directed)


def physics_of(log_k: torch.Tensor, kappa: torch.Tensor, phi: torch.Tensor) -> AnchorPhysics:
    return AnchorPhysics(
        log_k[None], kappa, torch.tensor([0.01]), torch.tensor([0.4]), torch.tensor([0.02]),
        tangential_factor(phi)[None],
    )  # fmt: skip


@pytest.fixture(scope="module")
def filmed() -> Drop:
    return drop(anchors=60, frames=FRAMES, cameras=2, width=64)


@pytest.fixture(scope="module")
def parts(filmed: Drop) -> TwinParts:
    """What the stages of a parity job end with, at values that somebody might have found."""
    body = block(directed=True, ground=CONFIG.ground(GROUND, DT_S))
    rollouts = AnchorRollouts(body, [], [], DT_S, FRAMES)
    video = filmed.video()
    binding = bind(filmed.cloud.mean.double(), torch.as_tensor(body.anchors), neighbours=16)
    loss = VideoLoss(video, filmed.cloud, LossWeights())
    scene = filmed.scene(video)
    dynamics = Dynamics(rollouts, binding, loss, scene.tick, truncate=True)
    start = start_values(rollouts)
    values = dynamics.at(start, 5)
    rng = np.random.default_rng(0)
    values |= {
        "offset": rng.normal(0.0, 0.5, len(body.anchors)), "kappa": np.array(0.3),
        "phi": np.array(-0.5), "velocity": VELOCITY.double().numpy(),
    }  # fmt: skip
    flight = Flight(values["velocity"], 2)
    return TwinParts(
        CONFIG, scene, video, filmed.cloud, dynamics, flight, values, FRAMES - 2, FRAMES, {}, {},
        False,
    )  # fmt: skip


def test_the_factor_of_the_ground_has_the_values_of_the_notes() -> None:
    """Check 2."""
    phi = torch.tensor([-1.0, -2.398, 2.398, -5.0, 5.0, 0.0], dtype=torch.float64)
    made = tangential_factor(phi)
    assert float(made[0]) == pytest.approx(0.2227, abs=5e-5)
    # 2.398 is ln 11 to three digits, f' there 0.09.
    np.testing.assert_allclose(made[1:3], [0.0, 1.0], atol=2e-5)
    np.testing.assert_array_equal(made[3:5], [0.0, 1.0])
    assert float(made[5]) == pytest.approx(0.5)
    inside = torch.tensor([-1.0, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(tangential_factor, (inside,))
    outside = torch.tensor([-2.5, 2.5], requires_grad=True)
    tangential_factor(outside).sum().backward()
    assert not outside.grad.any()


def test_a_spring_pulls_each_anchor_by_its_own_stiffness() -> None:
    """Forces of one substep against the sum over each anchor's own list, as the authors have it."""
    body = block(directed=True, ground=None, gravity=0.0)
    at, count = body.anchors, len(body.anchors)
    log_k = torch.randn(count, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    kappa = torch.tensor(0.2, dtype=torch.float64)
    now = at * (1.15, 0.9, 1.0)
    rollouts = AnchorRollouts(body, [], [], DT_S, 2)
    pulls = body.springs.pulls(log_k[None], kappa)
    given = rollouts._parameters(physics_of(log_k, kappa, torch.zeros(())), pulls, ())
    given = given.replace(dashpot_ns_per_m=torch.zeros(1, 1))
    model = rollouts._solver((), 1, given).model
    solver = SpringMassSolver(model, given, substeps=1, device="cpu")
    h = 1e-4
    velocity = solver.rollout(
        solver.initial_state(torch.as_tensor(now)), torch.zeros(1, 2, 0, 3), h
    ).velocity[0, 1]
    eta, k = soft_vector(kappa, 24, 8).numpy(), log_k.exp().numpy()
    for i in range(count):
        length = np.linalg.norm(at - at[i], axis=1)
        force = np.zeros(3)
        for rank, j in enumerate(np.argsort(length)[1:25]):
            gap = now[j] - now[i]
            r, rest = np.linalg.norm(gap), length[j]
            pull = eta[rank] * k[i] / rest * (r - rest) * np.sqrt(1.0 + abs(r / rest - 1.0))
            force += pull * gap / r
        want = h * force * count / MASS_KG
        # Float32: lengths of 0.1 m round by 4e-9 m, which is 1e-6 of elongations of millimetres.
        np.testing.assert_allclose(velocity[i], want, atol=2e-5 * float(velocity.abs().max()))


def drift(directed: bool) -> float:
    """Momentum that a free, squeezed body gains in 30 ms, over the size of its anchors' momenta.

    Check 8: one stiffness for all; a neighbour in i's list need not have i in its own.
    """
    body = block(directed=directed, ground=None, gravity=0.0)
    rollouts = AnchorRollouts(body, [], [], DT_S, 2)
    log_k, zero = torch.zeros(len(body.anchors)), torch.zeros(())
    pulls = body.springs.pulls(log_k[None], zero)
    given = rollouts._parameters(physics_of(log_k, zero, zero), pulls, ())
    solver = SpringMassSolver(rollouts._solver((), 1, given).model, given, device="cpu")
    squeezed = torch.as_tensor(body.anchors * (1.15, 0.9, 1.0))
    moved = solver.rollout(solver.initial_state(squeezed), torch.zeros(1, 31, 0, 3), 1e-3)
    speed = moved.velocity[0].double()
    return float(speed.mean(dim=1).norm(dim=1).max() / speed.norm(dim=2).mean(dim=1).max())


def test_directed_springs_move_a_free_body_and_joined_ones_do_not() -> None:
    # Measured: 0.05 and 2e-8; the latter is the round-off of float32.
    assert drift(True) > 1e-2
    assert drift(False) < 1e-6


def test_gradients_along_parity_are_those_of_differences() -> None:
    """Through contact and directed springs, to every value that parity fits."""
    body = block(directed=True, ground=CONFIG.ground(GROUND, DT_S))
    rollouts = AnchorRollouts(body, [], [], DT_S, 6)
    weight = torch.randn(6, len(body.anchors), 3, generator=torch.Generator().manual_seed(1))
    count = len(body.anchors)
    at = {
        "log_k": torch.linspace(-0.5, 1.0, count, dtype=torch.float64),
        "kappa": torch.tensor(0.3, dtype=torch.float64),
        "phi": torch.tensor(1.9, dtype=torch.float64),  # slippery: it slides all the while
    }

    def loss(values: dict[str, torch.Tensor]) -> torch.Tensor:
        moved = rollouts(physics_of(values["log_k"], values["kappa"], values["phi"]), VELOCITY, 6)
        return (moved[0] * weight).double().sum()

    leaves = {k: v.clone().requires_grad_() for k, v in at.items()}
    loss(leaves).backward()
    ramp = torch.linspace(-1.0, 1.0, count, dtype=torch.float64)
    for name, along in (("log_k", ramp), ("kappa", 1.0), ("phi", 1.0)):
        exact = float((leaves[name].grad * along).sum())
        with torch.no_grad():
            ends = [float(loss({**at, name: at[name] + s * 1e-3 * along})) for s in (1, -1)]
        # Of 0.01 to 0.06; float32 positions of 5 cm round by 2e-9 m, which in a sum of 1000 is 6e-8
        # and over 2e-3 is 3e-5. A longer step would have anchors meet the ground a substep earlier
        # or later, which this law makes a jump.
        assert exact == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=0.03, abs=1e-4), name
        assert abs(exact) > 5e-3


def test_a_truncated_gradient_is_that_of_its_own_frame_alone() -> None:
    """Check 7: the motion up to the frame before is what it is."""
    body = block(directed=True, ground=CONFIG.ground(GROUND, DT_S))
    rollouts = AnchorRollouts(body, [], [], DT_S, 5)
    count, last = len(body.anchors), 4
    found = []
    for truncate in (True, False):
        log_k = torch.zeros(count, requires_grad=True)
        physics = physics_of(log_k, torch.zeros(()), torch.zeros(()))
        if truncate:
            moved = rollouts(physics, VELOCITY, 5, truncate=True)[0, last]
        else:  # the last frame by itself, from the state before it
            pulls = body.springs.pulls(physics.log_stiffness, physics.kappa)
            given = rollouts._parameters(physics, pulls, ())
            x = torch.as_tensor(body.anchors, dtype=torch.float32)[None]
            v = VELOCITY.expand(1, count, 3)
            with torch.no_grad():
                for t in range(last - 1):
                    rolled, v = rollouts._rolled(x, v, (), given, t, t + 1)
                    x = rolled[:, -1]
            moved = rollouts._rolled(x, v, (), given, last - 1, last)[0][0, -1]
        moved.square().sum().backward()
        found.append(log_k.grad)
    assert float(found[0].abs().max()) > 0.0
    # v - v0 + v0 rounds: 1e-7 of a velocity.
    np.testing.assert_allclose(found[0], found[1], atol=1e-4 * float(found[1].abs().max()))


def test_a_stiffness_of_1e9_takes_more_substeps_or_says_what_to_do() -> None:
    """Check 10: the stability limit in place of the authors' count after NaN."""
    body = block(20, directed=True, ground=CONFIG.ground(GROUND, DT_S))
    rollouts = AnchorRollouts(body, [], [], DT_S, 2)
    plans = []
    for k in (1e1, 1e9):
        log_k = torch.full((20,), float(np.log(k)))
        zero = torch.zeros(())
        pulls = body.springs.pulls(log_k[None], zero)
        given = rollouts._parameters(physics_of(log_k, zero, zero), pulls, ())
        solver = SpringMassSolver(rollouts._solver((), 1, given).model, given, device="cpu")
        plans.append(solver.plan(1.0, 1).substeps)
    assert plans[1] == pytest.approx(1e4 * plans[0], rel=0.2)  # the dashpots are nothing to it
    state = solver.initial_state(torch.as_tensor(body.anchors), VELOCITY.expand(20, 3))
    rolled = solver.rollout(state, torch.zeros(1, 2, 0, 3), 1e-3)
    assert float(rolled.velocity.abs().max()) < 10.0
    # As many as the authors go up to: it ends with what to change, not with numbers that are none.
    few = SpringMassSolver(solver.model, given, device="cpu", substeps=500)
    with pytest.raises(BlowUpError, match="use substeps=None or at least"):
        few.rollout(state, torch.zeros(1, 2, 0, 3), DT_S)


def test_a_parity_twin_moves_as_it_was_fitted_and_comes_back_from_disk(
    parts: TwinParts, tmp_path
) -> None:
    twin = make_twin(parts, "parity")
    again = Twin.load(twin.save(tmp_path / "twin"))
    assert again.content_hash() == twin.content_hash()
    ends = [network_of(one) for one in (twin, again)]
    for model, given in ends:
        assert model.directed
        ground = model.ground
        assert ground == GroundPlane(law=GroundLaw.FACTOR, factor_step_s=DT_S / 100)
        phi = torch.tensor(-0.5, dtype=torch.float64)
        assert float(given.tangential_factor) == pytest.approx(float(tangential_factor(phi)))
        assert float(given.asymmetry.abs().max()) == 1.0  # not all neighbours are mutual
    for name, value in vars(ends[0][1]).items():
        assert torch.equal(value, vars(ends[1][1])[name]), name
    values = {k: torch.as_tensor(v) for k, v in parts.values.items()}
    with torch.no_grad():
        fitted = parts.dynamics.anchors(values, FRAMES).numpy()
    speed = np.tile(parts.values["velocity"], (again.node_count, 1))
    made = simulate_gripped(again, [], DT_S, frames=FRAMES, velocity=speed)
    assert (fitted[..., 2] < 1e-6).any()  # the ground was met
    # Logarithms of stiffness in float32 and floors of 1e-6 of springs that are switched off.
    np.testing.assert_allclose(made, fitted, atol=1e-5)
    # And neither directed springs nor the ground's law are idle in it.
    for without in (("spring_asymmetry",), ("ground_law", "tangential_factor", "factor_step_s")):
        kept = {k: v for k, v in again.parameters.items() if k not in without}
        if "ground_law" in without:
            kept |= {"friction": np.array(0.5), "restitution": np.array(0.0)}
        other = again.replace(parameters=kept)
        moved = simulate_gripped(other, [], DT_S, frames=FRAMES, velocity=speed)
        assert np.abs(moved - fitted).max() > 1e-3


def test_the_command_simulates_what_was_fitted(parts: TwinParts, tmp_path) -> None:
    twin = make_twin(parts, "parity")
    twin.save(tmp_path / "twin")

    def shown(**more) -> np.ndarray:
        given = {"duration": (FRAMES - 1) * DT_S, "fps": 1 / DT_S, **more}
        assert Simulate(tmp_path / "twin", out=tmp_path / "o.npz", **given).run() == 0
        with np.load(tmp_path / "o.npz") as arrays:
            return np.asarray(arrays["points"])

    values = {k: torch.as_tensor(v) for k, v in parts.values.items()}
    with torch.no_grad():
        fitted = parts.dynamics.anchors(values, FRAMES).numpy()
    made = shown()
    np.testing.assert_allclose(made[:, -len(fitted[0]) :], fitted, atol=1e-5)  # nodes come last
    # Half the frames: half as long substeps count, not half as many factors.
    np.testing.assert_allclose(shown(fps=2 / DT_S)[::2], made, atol=2e-3)
    ice = shown(friction=0.0)  # Coulomb's law takes the place of the factor
    assert ice[-1, :, 0].mean() > made[-1, :, 0].mean() + 1e-3


def test_a_grip_holds_a_parity_twin_by_springs_that_pull_alike(parts: TwinParts) -> None:
    twin = make_twin(parts, "parity")
    path = np.broadcast_to(np.array(twin.rest_position[:4], np.float64), (FRAMES, 4, 3))
    held = simulate_gripped(twin, [Grip(path, 0, FRAMES)], DT_S, frames=FRAMES)
    free = simulate_gripped(twin, [], DT_S, frames=FRAMES)
    assert held[-1, :, 2].mean() > free[-1, :, 2].mean() + 5e-3


def test_grounds_of_twins_have_what_their_law_asks_for(parts: TwinParts) -> None:
    twin = make_twin(parts, "parity")
    parameters = dict(twin.parameters)
    for wrong, word in (
        ({"friction": np.array(0.5)}, "friction"),
        ({"ground_law": np.array(7)}, "ground_law 7"),
        ({"ground_law": np.array(0)}, "tangential_factor"),
    ):
        with pytest.raises(TwinError, match=word):
            network_of(twin.replace(parameters={**parameters, **wrong}))
    del parameters["factor_step_s"]
    with pytest.raises(TwinError, match="factor_step_s"):
        network_of(twin.replace(parameters=parameters))
    higher = surrounded(twin, ground_m=-0.2)
    ground = network_of(higher)[0].ground
    assert ground == dataclasses.replace(network_of(twin)[0].ground, offset_m=-0.2)
    rough = surrounded(twin, friction=0.7)
    model, given = network_of(rough)
    assert model.ground == GROUND
    assert float(given.friction) == pytest.approx(0.7)
    assert model.directed


def test_the_mean_of_both_ends_and_their_asymmetry_are_the_ends() -> None:
    springs = block(directed=True, ground=None).springs
    log_k = torch.randn(60, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    log_k.requires_grad_()
    kappa = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    pulls = springs.pulls(log_k, kappa)
    assert (pulls == 0.0).any()

    def ends(log_k: torch.Tensor, kappa: torch.Tensor) -> torch.Tensor:
        both = springs.pulls(log_k, kappa)
        mean, side = both.mean(dim=-1), asymmetry_of(both)
        return torch.stack([mean * (1.0 + side), mean * (1.0 - side)], dim=-1)

    np.testing.assert_allclose(ends(log_k, kappa).detach(), pulls.detach(), rtol=1e-12, atol=1e-15)
    weight = torch.randn(pulls.shape, generator=torch.Generator().manual_seed(6)).double()
    direct = torch.autograd.grad((pulls * weight).sum(), (log_k, kappa))
    again = torch.autograd.grad((ends(log_k, kappa) * weight).sum(), (log_k, kappa))
    for a, b in zip(direct, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_clouds_a_centimetre_apart_score_as_the_notes_say() -> None:
    """Check 9."""
    dense = np.random.default_rng(0).uniform(0.0, 0.2, (8000, 3))
    shifted = dense + np.array([0.01, 0.0, 0.0])
    assert 1e-5 < squared_cd(dense, shifted) < 2e-4
    # Some shorter matching may exist, none is longer than the shift.
    assert 0.005 < emd(dense[:400], shifted[:400]) <= 0.01 + 1e-12
