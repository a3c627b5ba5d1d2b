"""Every method on recordings that PhysGym was not tuned on, beside the trivial baselines.

    python -m tests.benchmarks.bench_foreign_scenes --out runs/foreign [--scene NAME ...]
        [--methods phystwin,spring-gaus,mosa] [--json FILE] [--quick]

Each scene of `tests.benchmarks.foreign_scenes` is recorded, all methods learn from the first 0.7 of
its frames (``physgym compare`` with `SETTINGS`, which are small), and the twins of `UNSEEN` are
scored on another interaction of the same object. Recordings and twins stay in ``--out``; the same
command goes on there. Chamfer distance (CD) and IoU are those of the future (of all frames of an
unseen interaction); tracks are against the true motion of the surface. E is the found Young's
modulus over that of the material; where the recording does not tell the mass, each is divided by
its density, as motion tells no more. A perfect method would not find 1: few straight tetrahedra
are stiffer than their material, and MuJoCo's table gives way (the tiny ball sinks 3.3 mm into it
and loses 0.8 mm of its height; the large ones sink 7 to 8 mm and lose 8 to 9 mm), which looks like
a softer object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from physgym.errors import PhysGymError
from physgym.twin import Twin
from recon.compare import CompareConfig, compare, contestants_of
from recon.compare.table import BASELINES, failures
from recon.identify.progress import Progress
from recon.score_commands import score_recording
from tests.benchmarks.foreign_recorder import record
from tests.benchmarks.foreign_scenes import SCENES, Scene

METHODS = ("phystwin", "spring-gaus", "mosa")
SETTINGS: dict[str, dict[str, Any]] = {
    "phystwin": {"nodes": 150},
    "mosa": {"particles": 1500, "adapter": False, "heterogeneity": False},
    "spring-gaus": {
        "anchors": 120, "dynamic_steps": 15, "static_steps": 150, "per_anchor": False,
    },
}  # fmt: skip
UNSEEN = {"L_push": "L_lift_drop"}
"""Another interaction of the same object, which nobody learns from."""
LEARNED = tuple(name for name in SCENES if name not in UNSEEN.values())
QUICK = (("tiny_ball",), "mosa")
COLUMNS = (
    ("train_true_track_m", "train true track [mm]", 1e3, 1),
    ("true_track_m", "future true track [mm]", 1e3, 1),
    ("chamfer_m", "CD [mm]", 1e3, 1),
    ("iou", "IoU [%]", 1e2, 1),
    ("young_ratio", "E over truth", 1.0, 2),
    ("learn_s", "learn [s]", 1.0, 0),
)
"""Key of a row's figure, title, factor to its unit, digits."""

Row = dict[str, Any]


class Talk(Progress):
    """Says where a comparison is."""

    def say(self, text: str) -> None:
        """See `Progress.say`."""
        print(f"    {text}", flush=True)


def recorded(scene: Scene, folder: Path) -> Path:
    """The scene's episode; one that is there is kept."""
    path = folder / scene.name / "episode"
    if not path.is_dir():
        shutil.rmtree(path.with_name(f"{path.name}.partial"), ignore_errors=True)
        print(f"    record {scene.name}", flush=True)
        record(scene, path)
    return path


def young_ratio(scene: Scene, twin: Twin) -> float | None:
    """Young's modulus over the truth, per density where the mass is not told; None of springs."""
    if "young_pa" not in twin.parameters:
        return None
    ratio = float(twin.parameters["young_pa"]) / scene.young_pa
    if scene.mass_told:
        return ratio
    return ratio * scene.density_kg_per_m3 / float(twin.parameters["density_kg_per_m3"])


def row_of(who: str, last: dict[str, Any], train: dict[str, Any], **more: Any) -> Row:
    """One line; ``last`` is measured after what was learned from, in ``train``."""
    keys = ("true_track_m", "chamfer_m", "iou")
    figures = {key: last.get(key) for key in keys}
    return {"who": who, "train_true_track_m": train.get("true_track_m"), **figures, **more}


def learned(scene: Scene, methods: Sequence[str], folder: Path) -> tuple[list[Row], list[str]]:
    """Rows of all methods and baselines, and why others are missing."""
    settings = {name: SETTINGS[name] for name in methods}
    place = folder / scene.name / "compare"
    result = compare(
        recorded(scene, folder),
        contestants_of(",".join(methods), settings),
        place,
        CompareConfig(report=False, resume=True),
        progress=Talk(),
    )
    if result["stopped"]:
        raise KeyboardInterrupt
    rows = []
    for one in result["contestants"]:
        if one["status"] == "done":
            train, future = (one["parts"].get(k, {}).get("twin", {}) for k in ("train", "future"))
            ratio = young_ratio(scene, Twin.load(place / one["name"] / "twin"))
            learn_s = one["seconds"]["learn"]
            rows.append(row_of(one["name"], future, train, young_ratio=ratio, learn_s=learn_s))
        else:
            rows.append(row_of(f"{one['name']} ({one['status']})", {}, {}))
    for name, parts in result["baselines"].items():
        rows.append(row_of(name, parts.get("future", {}), parts.get("train", {})))
    missing = [f"{scene.name}, {name}: {why}" for name, why, _ in failures(result)]
    return [{"scene": scene.name, **row} for row in rows], missing


def unseen(scene: Scene, methods: Sequence[str], folder: Path) -> list[Row]:
    """How the twins of a scene predict its other interaction; baselines need one of them."""
    other, rows, score = SCENES[UNSEEN[scene.name]], [], None
    for name in methods:
        place = folder / scene.name / "compare" / name / "twin"
        if place.is_dir():
            print(f"    score {name} of {scene.name} on {other.name}", flush=True)
            score = score_recording(Twin.load(place), recorded(other, folder)).score
            rows.append(row_of(name, score["parts"]["unseen"]["twin"], {}))
    for name in BASELINES:
        if score is not None and name in score["parts"]["unseen"]:
            rows.append(row_of(name, score["parts"]["unseen"][name], {}))
    return [{"scene": f"{other.name} (unseen)", **row} for row in rows]


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of Markdown."""
    titles = ["scene", "who", *(title for _, title, _, _ in COLUMNS)]
    yield f"| {' | '.join(titles)} |"
    yield "|" + " --- |" * len(titles)
    for row in rows:
        values = ((row.get(key), factor, digits) for key, _, factor, digits in COLUMNS)
        texts = ("-" if v is None else f"{factor * v:.{digits}f}" for v, factor, digits in values)
        yield f"| {row['scene']} | {row['who']} | {' | '.join(texts)} |"


def measured(scenes: Sequence[str], methods: Sequence[str], folder: Path) -> dict[str, Any]:
    """Rows of all scenes, and why some are missing."""
    rows: list[Row] = []
    missing: list[str] = []
    for name in scenes:
        print(name, flush=True)
        try:
            found, why = learned(SCENES[name], methods, folder)
            rows, missing = rows + found, missing + why
            if name in UNSEEN:
                rows += unseen(SCENES[name], methods, folder)
        except PhysGymError as error:  # the other scenes are still worth measuring
            missing.append(f"{name}: {error.what}")
    return {"rows": rows, "missing": missing}


def main() -> None:
    """Record, learn, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder that is kept; a temporary one without")
    parser.add_argument("--scene", nargs="+", choices=LEARNED, default=list(LEARNED))
    parser.add_argument("--methods", default=",".join(METHODS), help="separated by commas")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="one small scene, one method")
    words = parser.parse_args()
    torch.set_num_threads(1)
    scenes, methods = QUICK if words.quick else (words.scene, words.methods)
    names = [one.name for one in contestants_of(methods)]  # refuses what is none of them
    began_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        found = measured(scenes, names, (words.out or Path(scratch)).absolute())
    print(*table(found["rows"]), *found["missing"], sep="\n")
    seconds = time.perf_counter() - began_s
    print(f"{seconds:.0f} s")
    if words.json:
        words.json.parent.mkdir(parents=True, exist_ok=True)
        figures = {"settings": SETTINGS, "seconds": seconds, **found}
        words.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
