"""Rollouts with a stress adapter: the prior's bits, gradients, how cheap modes converge, energy."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from adapter_scenes import CONFIGS, adapted_reference, adapter_of
from mpm_scenes import MATERIALS, VALUES, name_of, parameters, path, thrown_body

from physgym.errors import DataError
from physgym.sim.mpm import ElasticLaw, Material, MpmSolver, ReturnMap
from physgym.sim.mpm.adapted_solver import AdaptedMpmSolver
from physgym.sim.solver import Solver

FRAMES, SUBSTEPS, FRAME_S = 3, 12, 0.010
NEO = Material(ElasticLaw.NEO_HOOKEAN)
CASCADE, SHARED = CONFIGS["cascade"], CONFIGS["shared"]


GROUPS = {"hidden": "nets", "heads": "heads"}  # weights that are checked as one vector


class Scene:
    """A thrown body with driven particles, its prior and any adapter on it."""

    def __init__(self, material=NEO, *, worlds=1, substeps=SUBSTEPS, threads=1, **more):
        self.model, x, v = thrown_body(material, size_m=0.05, particle_m=0.0125, driven=3, **more)
        values = {k: VALUES[k] for k in (*material.used, "friction")}
        self.prior = MpmSolver(
            self.model, parameters(values), worlds=worlds, substeps=substeps, threads=threads,
            device="cpu",
        )  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        f = torch.eye(3) + 0.05 * torch.randn(len(x), 3, 3, generator=generator)
        x, v = (torch.tensor(a, dtype=torch.float32) for a in (x, v))
        self.state = self.prior.initial_state(x, v, f)
        p = torch.tensor(path(self.model, x.numpy(), FRAMES, FRAME_S), dtype=torch.float32)
        self.driven = p.expand(worlds, *p.shape).contiguous()

    def run(self, solver, dt_s=FRAME_S, driven=None):
        return solver.rollout(self.state, self.driven if driven is None else driven, dt_s)

    def adapted(self, adapter):
        return self.run(AdaptedMpmSolver(self.prior, adapter))


def same_bits(a, b):
    return all(
        torch.equal(getattr(a, n), getattr(b, n)) for n in ("position", "velocity", "internal")
    )


@pytest.mark.parametrize("material", MATERIALS, ids=name_of)
def test_an_untrained_adapter_gives_the_prior_s_bits(material):
    scene = Scene(material, worlds=2, threads=2, substeps=None)
    adapter = adapter_of(CASCADE)
    with torch.no_grad():
        assert same_bits(scene.adapted(adapter), scene.run(scene.prior))
    # The same while weights wait for gradients.
    assert same_bits(scene.adapted(adapter), scene.run(scene.prior))


def test_an_untrained_adapter_evaluated_more_often_is_the_prior_in_shorter_frames():
    scene = Scene()
    made = scene.adapted(adapter_of(replace(SHARED, evaluations_per_frame=2)))
    half = 0.5 * (scene.driven[:, 1:] + scene.driven[:, :-1])
    finer = torch.zeros(1, 2 * FRAMES + 1, *scene.driven.shape[2:])
    finer[:, ::2], finer[:, 1::2] = scene.driven, half
    prior = MpmSolver(scene.model, scene.prior.parameters, substeps=SUBSTEPS // 2, device="cpu")
    expected = scene.run(prior, 0.5 * FRAME_S, finer)
    # Float32 round-off of driven points and step length, over 36 substeps.
    assert (made.position - expected.position[:, ::2]).abs().max() < 1e-6


def test_untrained_in_the_full_mode_it_gives_the_plain_engine_s_bits():
    scene = Scene()
    plain = MpmSolver(
        scene.model, scene.prior.parameters, substeps=SUBSTEPS, device="cpu", engine="plain"
    )
    made = scene.adapted(adapter_of(replace(CASCADE, evaluations_per_frame=None)))
    assert same_bits(made, scene.run(plain))


@pytest.mark.parametrize("every", [1, 3, None])
def test_it_is_a_solver_whose_single_steps_are_its_rollout(every):
    scene = Scene(worlds=2)
    adapter = adapter_of(replace(SHARED, evaluations_per_frame=every), size=0.5)
    solver = AdaptedMpmSolver(scene.prior, adapter)
    assert isinstance(solver, Solver)
    with torch.no_grad():
        whole = scene.run(solver)
    assert same_bits(whole, scene.run(solver))  # with weights that wait for gradients
    state = scene.state.clone()
    for frame in range(FRAMES):
        solver.step(state, state, scene.driven[:, frame + 1], FRAME_S)
    assert torch.equal(state.position, whole.final.position)
    assert torch.equal(state.internal, whole.final.internal)


def test_worlds_do_not_mix_and_threads_do_not_matter():
    adapter = adapter_of(replace(CASCADE, clusters=5), size=0.5)
    one = Scene().adapted(adapter)
    made = []
    for threads in (1, 2):
        many = Scene(worlds=3, threads=threads)
        many.state.velocity[1] *= 0.5
        made.append(many.adapted(adapter))
        # The networks' matrix products round differently in a larger batch.
        assert (made[-1].position[::2] - one.position).abs().max() < 1e-6
        assert (made[-1].position[1] - one.position[0]).abs().max() > 1e-3
    assert same_bits(*made)


@pytest.mark.parametrize("engine", ["auto", "plain"])
def test_a_part_s_operator_is_the_stated_one(engine):
    # Against the float64 reference with the operator made at the start of each half frame.
    scene = Scene()
    adapter = adapter_of(replace(CASCADE, evaluations_per_frame=2), size=0.5)
    prior = MpmSolver(
        scene.model, scene.prior.parameters, substeps=SUBSTEPS, device="cpu", engine=engine
    )
    made = scene.run(AdaptedMpmSolver(prior, adapter))
    x, v, f, driven = leaves_of(scene)
    values = {k: VALUES[k] for k in (*NEO.used, "friction")}
    double = copy.deepcopy(adapter).double()
    expected = adapted_reference(scene.model, double, values, x, v, SUBSTEPS, FRAME_S, driven, f, 2)
    moved = np.abs(expected[0][-1] - scene.run(prior).position[0, -1].detach().numpy()).max()
    error = np.abs(made.position[0].detach().numpy() - expected[0]).max()
    # Float32 over 36 substeps, and far below what the adapter changes.
    assert error < 2e-6
    assert moved > 20.0 * error


def leaves_of(scene):
    state = scene.state
    f = state.internal.unflatten(1, (-1, 18))[..., :9].unflatten(-1, (3, 3))
    return tuple(a[0].double().numpy() for a in (state.position, state.velocity, f, scene.driven))


GRADIENTS = {
    "cascade": replace(CASCADE, evaluations_per_frame=1),
    "shared twice a frame": replace(SHARED, evaluations_per_frame=2),
    "clusters": replace(SHARED, clusters=6),
    "full": replace(CASCADE, evaluations_per_frame=None),
}


@pytest.mark.parametrize(
    ("name", "law"),
    [
        *((name, ElasticLaw.NEO_HOOKEAN) for name in GRADIENTS if name != "clusters"),
        ("cascade", ElasticLaw.HENCKY),
        ("cascade", ElasticLaw.FIXED_COROTATED),
        ("cascade", ElasticLaw.FLUID),
    ],
)
def test_gradients_against_finite_differences(name, law):
    scene = Scene(Material(law), substeps=8)
    adapter = adapter_of(GRADIENTS[name], size=0.5)
    leaves, weights = gradient_leaves(scene, adapter)
    found = solver_gradients(scene, adapter, leaves, weights)
    for key, leaf in leaves.items():
        g = found[key].double()
        size = float(g.norm())
        assert size > 0.0, key
        # Along the gradient itself: any wrong part lowers the quotient.
        step = 1e-6 * (leaf.norm() + 1e-3) * (g / size)
        up, down = (
            reference_loss(scene, adapter, {**leaves, key: leaf + sign * step}, weights)
            for sign in (1.0, -1.0)
        )
        quotient = (up - down) / (2.0 * float(step.norm()))
        # float32 sums over 24 substeps keep three digits.
        assert quotient == pytest.approx(size, rel=5e-3), key


def test_gradients_through_shared_operators_add_up():
    # One group of all particles: the operator of the mean, so the gradient reaches every particle.
    scene = Scene()
    adapter = adapter_of(replace(SHARED, clusters=1), size=0.5)
    solver = AdaptedMpmSolver(scene.prior, adapter)
    internal = scene.state.internal.clone().requires_grad_()
    state = solver._particles(replace(scene.state, internal=internal))
    c = scene.prior.parameters.coefficients(scene.model)
    operator, _ = solver._operators(state, type(c)(*c))
    assert (operator - operator[:, :1]).abs().max() == 0.0
    (grad,) = torch.autograd.grad(operator[0, 0, 0], internal)
    per_particle = grad.unflatten(1, (-1, 18))[0, :, :9].norm(dim=1)
    assert per_particle.min() > 0.0


def gradient_leaves(scene, adapter):
    """Leaves in float64 by name, and weights of a loss over positions and deformations."""
    p = scene.model.particle_count
    fluid = scene.model.material.law is ElasticLaw.FLUID
    stiffness = "bulk_modulus_pa" if fluid else "young_pa"
    groups = {group: getattr(adapter, module) for group, module in GROUPS.items()}
    x, v, f, driven = (torch.tensor(a) for a in leaves_of(scene))
    leaves = {
        stiffness: torch.full((p,), VALUES[stiffness], dtype=torch.float64),
        "x": x, "v": v, "f": f, "driven": driven,
        "rest_6d": adapter.rest_6d.detach().double(),
        **{k: torch.nn.utils.parameters_to_vector(m.parameters()).detach().double()
           for k, m in groups.items()},
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(FRAMES + 1, p, *s, generator=generator).double() for s in ((3,), (3, 3))]
    return leaves, [weights[0], 0.1 * weights[1]]


def loaded(adapter, leaves):
    """Weights by name from the groups of `gradient_leaves`."""
    weights = {"rest_6d": leaves["rest_6d"]}
    for group, module in GROUPS.items():
        at = 0
        for key, tensor in getattr(adapter, module).named_parameters():
            part = leaves[group][at : at + tensor.numel()]
            weights[f"{module}.{key}"] = part.reshape(tensor.shape)
            at += tensor.numel()
    return weights


def solver_gradients(scene, adapter, leaves, weights):
    """Gradients of the solver's loss by the names of the leaves."""
    values = {k: VALUES[k] for k in (*scene.model.material.used, "friction")}
    inputs = {k: a.float().requires_grad_() for k, a in leaves.items() if k not in GROUPS}
    del inputs["rest_6d"]
    given = {k: a[None] for k, a in inputs.items() if k.endswith("_pa")}
    start = scene.prior.initial_state(inputs["x"], inputs["v"], inputs["f"])
    made = AdaptedMpmSolver(scene.prior, adapter).rollout(
        start, inputs["driven"][None], FRAME_S, parameters=replace(parameters(values), **given)
    )
    parts = (made.position[0], made.deformation[0])
    adapter.zero_grad()
    sum((a * w.float()).sum() for a, w in zip(parts, weights)).backward()
    vectors = {
        group: torch.cat([p.grad.flatten() for p in getattr(adapter, module).parameters()])
        for group, module in GROUPS.items()
    }
    return {k: a.grad for k, a in inputs.items()} | {"rest_6d": adapter.rest_6d.grad} | vectors


def reference_loss(scene, adapter, leaves, weights):
    values = {k: VALUES[k] for k in (*scene.model.material.used, "friction")}
    values |= {k: a.numpy() for k, a in leaves.items() if k.endswith("_pa")}
    double = copy.deepcopy(adapter).double()
    double.load_state_dict(double.state_dict() | loaded(adapter, leaves))
    x, _, f = adapted_reference(
        scene.model, double, values, leaves["x"].numpy(), leaves["v"].numpy(),
        scene.prior.substeps, FRAME_S, leaves["driven"].numpy(), leaves["f"].numpy(),
        adapter.config.evaluations_per_frame,
    )  # fmt: skip
    return float((x * weights[0].numpy()).sum() + (f * weights[1].numpy()).sum())


YIELDING = Material(ElasticLaw.HENCKY, ReturnMap.VON_MISES)


def test_a_yielding_body_with_an_adapted_projection():
    config = replace(SHARED, plastic=True, evaluations_per_frame=2)
    scene = Scene(YIELDING)
    untrained, prior = scene.adapted(adapter_of(config)), scene.run(scene.prior)
    # The identity on sorted stretches is the plain projection to round-off.
    assert (untrained.deformation - prior.deformation).abs().max() < 2e-5
    adapter = adapter_of(config, size=0.5)
    made = scene.adapted(adapter)
    without = scene.adapted(adapter_without_plastic(adapter))
    assert (made.deformation - without.deformation).abs().max() > 1e-3
    made.deformation.square().sum().backward()
    assert adapter.heads["plastic"].weight.grad.norm() > 0.0


def adapter_without_plastic(adapter):
    """The same adapter with an untrained plastic network."""
    made = copy.deepcopy(adapter)
    with torch.no_grad():
        for tensor in made.heads["plastic"].parameters():
            tensor.zero_()
    return made


def test_an_adapted_projection_needs_a_material_that_yields():
    adapter = adapter_of(replace(SHARED, plastic=True))
    with pytest.raises(DataError, match="plastic"):
        AdaptedMpmSolver(Scene().prior, adapter)
    with pytest.raises(DataError, match="evaluations"):
        replace(SHARED, plastic=True, evaluations_per_frame=None)
