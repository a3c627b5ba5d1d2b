"""Which model predicts real cables: a chain of springs, or a discrete elastic rod?

The evidence behind the choice in `recon.identify.rope`. Both models get the same search (CMA-ES,
same generations and population, the same eight train recordings, global parameters only) and
predict all eval recordings open loop.

    python tests/benchmarks/cable_models.py --data ../shared/data/deform_dlo --json runs/models.json
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from _machine import machine
from cmaes import CMA

from physgym.errors import BlowUpError
from physgym.sim.rod.model import voronoi_length
from physgym.sim.spring_mass import SpringMassModel, SpringMassSolver
from physgym.sim.spring_mass.topology import chain_springs
from recon.identify.phystwin import _liveliest
from recon.identify.rope import RopeProblem
from recon.identify.search import search
from recon.identify.segments import Segment, cut_segments
from recon.importers import deform_dlo
from recon.metrics import deform_l1

POPULATION, GENERATIONS = 16, 40
# Stiffness (EA, N) of links to the next, second and third node; dashpot N s/m; drag 1/s.
MEAN = np.log([50.0, 0.3, 0.3, 3e-3, 0.1])
SIGMA = np.array([0.5, 2.0, 2.0, 1.5, 1.0])


def chain_rollout(
    rest: np.ndarray, driven: np.ndarray, theta: np.ndarray, segments: list[Segment]
) -> np.ndarray:
    """Spring chains under every candidate: (R, Q, T, N, 3)."""
    nodes, runs, count = len(rest) + 1, len(segments), len(theta)
    line = np.zeros((nodes, 3))
    line[1:, 0] = np.cumsum(rest)
    edges = chain_springs(nodes, reach=3)
    reach = torch.as_tensor((edges[:, 1] - edges[:, 0]).astype(np.int64)) - 1
    model = SpringMassModel(rest_position=line, edges=edges, driven_index=driven)
    tiled = torch.as_tensor(np.tile(theta, (runs, 1)), dtype=torch.float32)
    base = model.default_parameters(stiffness=1.0, mass_kg=1.0)
    parameters = base.replace(
        log_stiffness=tiled[:, :3][:, reach],
        dashpot_ns_per_m=tiled[:, 3:4].exp(),
        mass_kg=torch.as_tensor(0.02 * voronoi_length(rest), dtype=torch.float32)[None],
        drag_per_s=tiled[:, 4].exp(),
    )
    solver = SpringMassSolver(model, parameters, worlds=runs * count, device="cpu", substeps=20)
    pick = lambda key: torch.as_tensor(  # noqa: E731
        np.repeat(np.stack([getattr(s, key) for s in segments]), count, axis=0), dtype=torch.float32
    )
    state = solver.initial_state(pick("position"), pick("velocity"))
    x = solver.rollout(state, pick("driven"), segments[0].dt_s).position.numpy()
    return x.reshape(runs, count, *x.shape[1:])


def chain_cost(rest, driven, free, theta, segments) -> np.ndarray:
    """Mean absolute error of the free nodes for every candidate [m]."""
    try:
        x = chain_rollout(rest, driven, theta, segments)
    except BlowUpError:
        if len(theta) == 1:
            return np.array([1.0])
        return np.concatenate([chain_cost(rest, driven, free, t[None], segments) for t in theta])
    seen = np.stack([s.target for s in segments])[:, None, :, free]
    return np.nanmean(np.abs(x[:, :, 1:, free] - seen), axis=(0, 2, 3, 4))


def measure(data: Path, name: str) -> dict[str, float]:
    """Scores of both models on one cable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train = deform_dlo.read(data / f"{name}_train.npz")
        evals = cut_segments(deform_dlo.read(data / f"{name}_eval.npz"))
    raw = deform_dlo.read_clips(data / f"{name}_eval.npz").positions
    evals = [s for s in evals if len(s.target) == raw.shape[1] - 2]
    problem = RopeProblem(train, cut_segments(train), frame_stride=3)
    lively = _liveliest(problem, 40.0)
    segments = [problem.segments[r] for r in lively]
    driven, free = train[0].driven_index, train[0].free_index

    optimizer = CMA(mean=np.zeros(5), sigma=0.5, population_size=POPULATION, seed=0)
    best = (np.inf, MEAN)
    for _ in range(GENERATIONS):
        asked = np.stack([optimizer.ask() for _ in range(POPULATION)])
        theta = MEAN + asked * SIGMA
        values = chain_cost(problem.rest_length_m, driven, free, theta, segments)
        optimizer.tell([(z, float(v)) for z, v in zip(asked, values)])
        best = min(best, (float(values.min()), theta[values.argmin()]), key=lambda b: b[0])
    chain = chain_rollout(problem.rest_length_m, driven, best[1][None], evals)[:, 0]
    found = search(
        problem,
        problem.search_directions(),
        lively,
        start=problem.prior.mean,
        generations=GENERATIONS,
        population=POPULATION,
    )
    rod = problem.simulate(found[0].theta[None], evals)[:, 0]

    def score(x: np.ndarray) -> float:
        return deform_l1(np.concatenate([raw[:, :2], x[:, 1:]], axis=1), raw)

    return {
        "spring_chain_reach_3": score(chain),
        "rod_global_parameters": score(rod),
        "chain_parameters": np.exp(best[1]).tolist(),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/deform_dlo"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    names = sorted(p.name.removesuffix("_train.npz") for p in args.data.glob("*_train.npz"))
    if not names:
        print(f"no recordings in {args.data}: nothing measured")
    result = {"machine": machine(), "cables": {name: measure(args.data, name) for name in names}}
    print(json.dumps(result["cables"], indent=2))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
