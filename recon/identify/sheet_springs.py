"""A sheet as springs: a membrane between near points, and struts that make it resist bending.

Springs in a plane resist bending to no first order, and PhysTwin's long ones resist it where the
sheet is folded already. Here springs to second neighbours push, and the membrane between them pulls
as much, so that a flat sheet has no stress but every curvature costs energy: of a straight row of
nodes it is the squared second difference, the discrete bending energy of a beam.
A strut of length L along a curvature k shortens by k^2 L^3 cos^4 / 24, and cos^4 is 3/8 on average
over all directions: so sum(push L^3) - sum(pull L^3) over the springs is 32 D A, D the bending
stiffness and A the area; sum(push L) = sum(pull L) is the balance of the flat sheet.
Shapes: Q candidates, S springs, N nodes.
"""

from __future__ import annotations

import numpy as np
import torch

from physgym.sim.spring_mass import hop_pairs, merge_springs, rest_lengths
from recon.identify.network_topology import Topology, network_springs

__all__ = ["preloaded", "push_and_pull", "sheet_springs"]

# Natural length of a strut over its length, less one: its push no more than doubles in a fold.
_STRUT_PRELOAD = 1.0
# Reach of the membrane and of struts in spacings; on a square grid 8 and 12 neighbours.
_MEMBRANE, _STRUT = 1.55, 2.6
_MOST_NEIGHBOURS = 30  # far more than lie within reach, unless points lie in heaps


def sheet_springs(
    nodes: np.ndarray, *, spacing_m: float, shortest_m: float
) -> tuple[np.ndarray, np.ndarray]:
    """Springs of a sheet.

    Args:
        nodes: at rest [m], shape (N, 3).
        spacing_m: usual distance of nodes.
        shortest_m: shorter springs are left out [m].

    Returns:
        Springs, shape (S, 2), int32, and which of them are struts, shape (S,), bool. Struts join
        second neighbours in the membrane only, so layers that lie on each other stay free.
    """
    reach_m = _MEMBRANE * spacing_m
    membrane = network_springs(
        nodes,
        np.zeros(0, np.int64),
        radius_m=reach_m,
        neighbours=_MOST_NEIGHBOURS,
        driven_radius_m=reach_m,
        driven_neighbours=1,
        shortest_m=shortest_m,
    )
    second = hop_pairs(len(nodes), membrane, 2).tocoo()
    struts = np.stack([second.row, second.col], axis=1)
    struts = merge_springs(struts[struts[:, 0] < struts[:, 1]])
    length = rest_lengths(nodes, struts)
    struts = struts[(length > reach_m) & (length <= _STRUT * spacing_m)]
    edges = merge_springs(membrane, struts)
    code = edges[:, 0].astype(np.int64) * len(nodes) + edges[:, 1]
    of_membrane = membrane[:, 0].astype(np.int64) * len(nodes) + membrane[:, 1]
    return edges, ~np.isin(code, of_membrane)


def push_and_pull(
    bending_nm3: torch.Tensor, length_m: torch.Tensor, strut: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Forces in the springs of a flat sheet; differentiable.

    Args:
        bending_nm3: bending stiffness times area, D A [N m^3], shape (Q,).
        length_m: of the sheet's own springs [m], shape (S,).
        strut: which of them are struts, shape (S,), bool.

    Returns:
        What every strut pushes with and every spring of the membrane pulls with [N], shape (Q,);
        zeros where there are no struts.
    """
    pushing, pulling = length_m[strut], length_m[~strut]
    balance = pushing.sum() / pulling.sum()
    cubes = pushing.pow(3).sum() - balance * pulling.pow(3).sum()
    if not bool(cubes > 0.0):  # no struts: three nodes, or a heap of points
        return torch.zeros_like(bending_nm3), torch.zeros_like(bending_nm3)
    push = 32.0 * bending_nm3 / cubes
    return push, balance * push


def preloaded(
    topology: Topology,
    own: torch.Tensor,
    log_stiffness: torch.Tensor,
    log_offset: torch.Tensor,
    bending_nm3: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stiffness and natural lengths with which a sheet resists bending; differentiable.

    Args:
        topology: the springs, those of grips included.
        own: which are the sheet's, shape (S,), bool.
        log_stiffness: of the membrane and of grips, in N, shape (Q, S).
        log_offset: of every spring's stiffness from its like, shape (S,).
        bending_nm3: bending stiffness times area [N m^3], shape (Q,).

    Returns:
        Log stiffness and natural lengths [m], shape (Q, S) both.
    """
    strut, length = torch.as_tensor(topology.strut), torch.as_tensor(topology.rest_length_m)
    push, pull = push_and_pull(bending_nm3, length[own], strut[own])
    soft = (push * (1.0 + _STRUT_PRELOAD) / _STRUT_PRELOAD).clamp(min=1e-30).log()
    log_stiffness = torch.where(strut, soft[:, None] + log_offset, log_stiffness)
    natural = length / (1.0 + pull[:, None] / log_stiffness.exp())
    natural = torch.where(strut, length * (1.0 + _STRUT_PRELOAD), natural)
    return log_stiffness, torch.where(own, natural, length)
