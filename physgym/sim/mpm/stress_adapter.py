"""StressAdapter: small learned corrections of an elastic law's stress, with direction (MoSA, 2026).

In the frame that turns with the matter, three linear maps follow each other (Eq. 3): a pre-linear
one (Eq. 4), a redistribution on the three coordinate planes (Eqs. 5 to 7) and a post-linear one
(Eq. 8). Networks predict them from the stretch and the stress; every map starts at the identity.

Limitation: the corrected stress has no energy behind it, so a closed loop of strain may gain or
lose energy; `AdaptedMpmSolver.energy_report` says how much. A fluid has no axes of its own: its
correction acts along the world's, and is not frame indifferent.
Shapes: B worlds, P particles; batches of any shape in front are taken.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch

from physgym.errors import DataError
from physgym.sim.mpm.adapter_arrays import read_config, read_weights, write_config
from physgym.sim.mpm.elastic_torch import polar_rotation, right_stretch
from physgym.sim.mpm.voigt import (
    after_microplanes,
    after_product,
    from_voigt,
    identity,
    invertible,
    linear,
    microplanes,
    rotation_matrix,
    symmetric,
    to_voigt,
)

__all__ = ["AdapterConfig", "ModuleHook", "StressAdapter", "check_stress_scale", "hidden_layers"]

PREFIX = "adapter."


@dataclass(frozen=True)
class AdapterConfig:
    """What the adapter is made of, and how often it is evaluated.

    The defaults are the cheapest that lost nothing to see: see `tests/benchmarks/bench_adapter.py`.

    Attributes:
        strength: epsilon, the most that one triangular factor changes an entry, in [0, 1).
        hidden: width of the two hidden layers of every network.
        pre: with the pre-linear map.
        redistribution: with the redistribution.
        post: with the post-linear map.
        plastic: with a matrix on the principal strains that yield (Eq. 9); von Mises and sand.
        shared_trunk: one trunk for all maps instead of four networks one after the other.
        evaluations_per_frame: how often a frame's operator is made anew; in between it turns with
            the matter. None evaluates the networks in every substep, as the paper does.
        clusters: groups of neighbouring particles that share an operator, evaluated at their mean
            stretch and stress; None gives every particle its own.
    """

    strength: float = 0.1
    hidden: int = 64
    pre: bool = True
    redistribution: bool = True
    post: bool = True
    plastic: bool = False
    shared_trunk: bool = True
    evaluations_per_frame: int | None = 4
    clusters: int | None = None

    def __post_init__(self) -> None:
        counts = (self.evaluations_per_frame, self.clusters)
        if (
            not 0.0 <= self.strength < 1.0
            or self.hidden < 1
            or any(c is not None and c < 1 for c in counts)
        ):
            raise DataError(
                f"strength {self.strength}, hidden {self.hidden}, evaluations per frame and "
                f"clusters {counts}",
                where="AdapterConfig",
                expected="strength in [0, 1); whole numbers of at least 1, or None",
                fix="a strength of 1 or more allows matrices without an inverse",
            )
        if self.evaluations_per_frame is None and (self.clusters is not None or self.plastic):
            raise DataError(
                "clusters or a plastic operator without a number of evaluations per frame",
                where="AdapterConfig.evaluations_per_frame",
                expected="a number: a stress hook knows neither",
                fix="set evaluations_per_frame, or leave clusters and plastic out",
            )


class _Maps(NamedTuple):
    """Factors of the operator; None where one is left out."""

    pre: torch.Tensor | None  # (..., 3, 3)
    redistribution: tuple[torch.Tensor, torch.Tensor] | None  # (..., 3, 3, 3) and (..., 3, 3)
    post: torch.Tensor | None  # (..., 3, 3)


def _apply(maps: _Maps, stress: torch.Tensor) -> torch.Tensor:
    """The stress behind all maps, (..., 3, 3), along the material's axes."""
    if maps.pre is not None:
        stress = symmetric(maps.pre @ stress)
    if maps.redistribution is not None:
        stress = microplanes(stress, *maps.redistribution)
    if maps.post is not None:
        stress = symmetric(maps.post @ stress)
    return stress


def _parts(config: AdapterConfig) -> tuple[str, ...]:
    """Names of the networks' outputs."""
    redistribution = ("planes", "normals") if config.redistribution else ()
    return (*(("pre",) if config.pre else ()), *redistribution, *(("post",) if config.post else ()))


class StressAdapter(torch.nn.Module):
    """The operator, its networks and the rest orientation.

    Args:
        config: what it is made of.
        stress_scale_pa: stress that is large for this material, so that the networks see numbers
            around 1: Young's modulus, say.
        seed: of the hidden layers; output layers start at zero.
    """

    def __init__(self, config: AdapterConfig, *, stress_scale_pa: float, seed: int) -> None:
        super().__init__()
        check_stress_scale(stress_scale_pa)
        self.config = config
        self.stress_scale_pa: torch.Tensor
        self.register_buffer("stress_scale_pa", torch.tensor(float(stress_scale_pa)))
        width, parts = config.hidden, _parts(config)
        inputs = {"normals": width, "post": width + 6, "plastic": 6}  # 12 elsewhere
        names = ["trunk"] if config.shared_trunk else [*parts]
        if not config.shared_trunk and config.post and not config.redistribution:
            names.insert(0, "planes")  # the post-linear map reads its latent
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if config.plastic:
                names, parts = [*names, "plastic"], (*parts, "plastic")
            layers = {n: hidden_layers(inputs.get(n, 12), width) for n in names}
            self.nets = torch.nn.ModuleDict(layers)
            heads = {n: _zero_head(width, 36 if n == "planes" else 12) for n in parts}
            self.heads = torch.nn.ModuleDict(heads)
        self.rest_6d = torch.nn.Parameter(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]))

    @property
    def rest_orientation(self) -> torch.Tensor:
        """Axes of the material at rest as columns: R0, made of six free numbers, shape (3, 3)."""
        first, second = self.rest_6d.unflatten(0, (2, 3))
        x = first / first.norm()
        y = second - (x * second).sum() * x
        y = y / y.norm()
        return torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1)

    def turned(self, rotation: torch.Tensor) -> StressAdapter:
        """This adapter for a body whose rest shape was turned: R0 becomes ``rotation R0``.

        A body that keeps its rest shape and starts with ``F = rotation`` needs no such thing.

        Args:
            rotation: proper rotation, shape (3, 3).

        Returns:
            A copy that shares no weights.
        """
        made = copy.deepcopy(self)
        with torch.no_grad():
            turned = rotation.to(self.rest_6d) @ self.rest_orientation
            made.rest_6d.copy_(turned.mT[:2].flatten())
        return made

    def forward(self, deformation: torch.Tensor, stress: torch.Tensor) -> torch.Tensor:
        """`stress`, for torch."""
        return self.stress(deformation, stress)

    def stress(self, deformation: torch.Tensor, stress: torch.Tensor) -> torch.Tensor:
        """The corrected stress, map by map.

        Args:
            deformation: elastic F, shape (..., 3, 3).
            stress: Kirchhoff stress of the elastic law [Pa], shape (..., 3, 3).

        Returns:
            Kirchhoff stress [Pa], symmetric, shape (..., 3, 3); exactly the given one while the
            output layers are zero.
        """
        rotation = polar_rotation(deformation)
        u = right_stretch(deformation, rotation)
        q = rotation @ self.rest_orientation.to(rotation).expand(rotation.shape)
        before = symmetric(q.mT @ stress @ q)
        after = _apply(self._maps(self._material(u), before), before)
        # The change is turned back, not the stress: no change leaves the given bits.
        return stress + symmetric(q @ (after - before) @ q.mT)

    def operator(self, deformation: torch.Tensor, stress: torch.Tensor) -> torch.Tensor:
        """The same as a 6 x 6 matrix on ``R^T stress R``, for `MpmParameters.stress_operator`.

        Args:
            deformation: elastic F, shape (..., 3, 3).
            stress: Kirchhoff stress of the elastic law [Pa], shape (..., 3, 3).

        Returns:
            Shape (..., 6, 6), rows and columns in the order xx, yy, zz, xy, xz, yz.
        """
        rotation = polar_rotation(deformation)
        u = right_stretch(deformation, rotation)
        return self.operator_at(u, rotation.mT @ stress @ rotation)

    def operator_at(self, stretch: torch.Tensor, turned_stress: torch.Tensor) -> torch.Tensor:
        """`operator` from what does not turn with the world.

        Args:
            stretch: U of F = R U, shape (..., 3, 3).
            turned_stress: ``R^T stress R`` [Pa], shape (..., 3, 3).

        Returns:
            Shape (..., 6, 6).
        """
        r0 = self.rest_orientation.to(stretch)
        before = from_voigt(self._to_axes(to_voigt(symmetric(turned_stress))))
        maps = self._maps(self._material(stretch), before)
        one = identity(stretch)
        total = one
        if maps.pre is not None:
            total = after_product(maps.pre, total)
        if maps.redistribution is not None:
            total = after_microplanes(*maps.redistribution, total)
        if maps.post is not None:
            total = after_product(maps.post, total)
        # The change alone is turned, so that no change is exactly the identity.
        both = torch.kron(rotation_matrix(r0), rotation_matrix(r0.mT).mT.contiguous())
        turned = both @ (total - one).reshape(36, -1)
        return (one + turned.reshape(one.shape)).movedim((0, 1), (-2, -1))

    def plastic_operator(self, stretch: torch.Tensor) -> torch.Tensor | None:
        """The matrix on sorted principal strains, for `MpmParameters.plastic_operator`.

        Args:
            stretch: U of F = R U, shape (..., 3, 3).

        Returns:
            Shape (..., 3, 3), the identity while untrained; None without the network.
        """
        if not self.config.plastic:
            return None
        numbers = self.heads["plastic"](self.nets["plastic"](self._material(stretch)))
        return invertible(numbers, self.config.strength)

    def _material(self, stretch: torch.Tensor) -> torch.Tensor:
        """Six numbers of the stretch along the material's axes."""
        one = torch.eye(3, dtype=stretch.dtype, device=stretch.device)
        return self._to_axes(to_voigt(stretch - one))

    def _to_axes(self, vector: torch.Tensor) -> torch.Tensor:
        """Symmetric matrices as six numbers along the material's axes, from those of the body."""
        return linear(vector, rotation_matrix(self.rest_orientation.to(vector).mT).mT)

    def _maps(self, u: torch.Tensor, stress: torch.Tensor) -> _Maps:
        """All factors, along the material's axes; each network sees what the one before made."""
        c, nets = self.config, self.nets

        def features(s: torch.Tensor) -> torch.Tensor:
            return torch.cat([u, to_voigt(s) / self.stress_scale_pa], dim=-1)

        def factor(name: str, latent: torch.Tensor) -> torch.Tensor:
            numbers = self.heads[name](latent)
            return invertible(numbers.unflatten(-1, (-1, 12)), c.strength)

        z = nets["trunk"](features(stress)) if c.shared_trunk else None
        maps = _Maps(None, None, None)
        if c.pre:
            pre = factor("pre", nets["pre"](features(stress)) if z is None else z)
            maps = maps._replace(pre=pre[..., 0, :, :])
        if z is None and "planes" in nets:
            z = nets["planes"](features(_apply(maps, stress)))
        if c.redistribution and z is not None:
            normals = factor("normals", z if c.shared_trunk else nets["normals"](z))
            maps = maps._replace(redistribution=(factor("planes", z), normals[..., 0, :, :]))
        if c.post and z is not None:
            if not c.shared_trunk:
                seen = to_voigt(_apply(maps, stress)) / self.stress_scale_pa
                z = nets["post"](torch.cat([z, seen], dim=-1))
            maps = maps._replace(post=factor("post", z)[..., 0, :, :])
        return maps

    def hook(self) -> ModuleHook:
        """This adapter for `MpmSolver`'s plain engine, evaluated in every substep."""
        return ModuleHook(self)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Weights and configuration, all float32.

        Returns:
            Arrays by name; every name starts with ``adapter.``.
        """
        weights = {
            f"{PREFIX}{name}": value.detach().cpu().numpy().astype(np.float32)
            for name, value in self.state_dict().items()
        }
        return weights | write_config(asdict(self.config), PREFIX)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> StressAdapter:
        """The inverse of `to_arrays`; names without the prefix are left alone.

        Args:
            arrays: arrays by name.

        Returns:
            The adapter, on the CPU.

        Raises:
            DataError: if one is missing, misshapen, unknown or not finite.
        """
        config = read_config(AdapterConfig, arrays, PREFIX)
        made = cls(config, stress_scale_pa=1.0, seed=0)
        read_weights(made, arrays, PREFIX)
        check_stress_scale(float(made.stress_scale_pa))
        return made


def check_stress_scale(stress_scale_pa: float) -> None:
    """Raise where the scale by which networks see stress makes no sense.

    Args:
        stress_scale_pa: [Pa].

    Raises:
        DataError: if it is not positive and finite.
    """
    if not 0.0 < stress_scale_pa < np.inf:
        raise DataError(
            f"stress_scale_pa = {stress_scale_pa}",
            where="stress_scale_pa",
            expected="a positive stress",
            fix="pass Young's modulus of the material in Pa",
        )


class ModuleHook:
    """A `StressHook` of a module that maps F and stress to stress.

    Args:
        module: its ``forward`` takes both; evaluated with the weights of the moment.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._names = [name for name, _ in module.named_parameters()]

    def parameters(self) -> Sequence[torch.Tensor]:
        """The module's own, in its order."""
        return list(self._module.parameters())

    def __call__(
        self, deformation: torch.Tensor, stress: torch.Tensor, parameters: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """See `StressHook`."""
        weights = dict(zip(self._names, parameters, strict=True))
        made: torch.Tensor = torch.func.functional_call(
            self._module, weights, (deformation, stress)
        )
        return made


def hidden_layers(inputs: int, width: int) -> torch.nn.Sequential:
    """Two hidden layers with a smooth activation, so that stress stays smooth in strain.

    Args:
        inputs: numbers in.
        width: of both layers.

    Returns:
        The layers, started as torch does.
    """
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, width),
        torch.nn.SiLU(),
        torch.nn.Linear(width, width),
        torch.nn.SiLU(),
    )


def _zero_head(width: int, outputs: int) -> torch.nn.Linear:
    head = torch.nn.Linear(width, outputs)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return head
