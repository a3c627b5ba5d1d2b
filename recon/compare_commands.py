"""The command `compare`: every method on the same episode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from physgym.errors import DataError

__all__ = ["Compare"]


@dataclass(frozen=True)
class Compare:
    """Let every method learn from the start of an episode and predict the rest of it.

    Without depth, spring-gaus and mosa learn from the images of several cameras: say where the
    ground is (--ground) and, where no masks were recorded, where the object is (--box).

    Each method runs in a process of its own: its memory is its own, and one that crashes or refuses
    the episode is a row with the reason. Figures come with those of a frozen and a rigid object,
    and of one that falls rigidly where it flies alone; FOLDER/report.html shows recording and
    twins side by side. Ctrl-C keeps what is done.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """An episode of cameras: a rosbag2 folder, a PhysTwin case, a folder of images."""
    methods: str = "phystwin,spring-gaus,mosa"
    """Which, separated by commas."""
    json: Path | None = None
    """Where the figures go; FOLDER/compare.json when not given."""
    out: Path | None = None
    """Folder for twins and report, which --resume goes on in; beside the JSON when not given."""
    train: str = "auto"
    """What is learned from: a number of frames such as 20, a share such as 0.7, 'auto' (0.7) or
    'all'. The rest is predicted."""
    budget: Literal["quick", "full"] = "quick"
    """How long every method searches."""
    kind: Literal["auto", "volume", "sheet", "rope"] = "auto"
    """What the object is; 'auto' looks at the first frame."""
    mass: float | None = None
    """Mass of the object [kg]; the recording's own note when not given, else 0.1 kg."""
    settings: Path | None = None
    """JSON file with options by method, fields of its configuration:
    {"spring-gaus": {"anchors": 200}, "mosa": {"adapter": false}}."""
    nodes: int = 700
    """Nodes of a spring network at most (spring-gaus: 400)."""
    emd_points: int = 1000
    """Points of a cloud in EMD, at most 2000: time grows with the cube."""
    seed: int = 0
    """Of all random numbers."""
    ground: float | None = None
    """Of a recording without depth: height of the level ground that the object may land on [m]."""
    click: tuple[str, ...] = ()
    """Of a recording without depth and masks: CAMERA:U,V, a pixel of the object in the camera's
    first image; several of one camera belong together."""
    box: tuple[str, ...] = ()
    """The same, and usually better: CAMERA:LEFT,TOP,RIGHT,BOTTOM around it. Every camera needs one
    or the other; all follow one flag: --box cam0:90,5,210,160 cam1:100,0,220,158"""
    calibration: Path | None = None
    """File with T_world_cam of the cameras, in place of the recording's own."""
    report: bool = True
    """Draw FOLDER/report.html."""
    resume: bool = False
    """Go on in FOLDER: methods that are done are kept, others begin or go on."""

    def run(self) -> int:
        """Compare and print.

        Returns:
            0 when at least one method worked, 1 when none did, 130 after Ctrl-C.

        Raises:
            PhysGymError: if the flags or the episode cannot be used.
        """
        from recon.compare import CompareConfig, compare, contestants_of, read_settings
        from recon.compare.table import print_table
        from recon.identify.progress import RichProgress

        folder = self._folder()
        settings = None if self.settings is None else read_settings(self.settings)
        result = compare(
            self.source,
            contestants_of(self.methods, settings),
            folder,
            CompareConfig(
                train=self.train,
                budget=self.budget,
                kind=self.kind,
                mass_kg=self.mass,
                nodes=self.nodes,
                emd_points=self.emd_points,
                seed=self.seed,
                calibration=None if self.calibration is None else str(self.calibration.absolute()),
                ground_m=self.ground,
                click=self.click,
                box=self.box,
                report=self.report,
                resume=self.resume,
            ),
            json_path=self.json,
            progress=RichProgress(),
        )
        print_table(result)
        for place in (self.json or folder / "compare.json", folder / "report.html"):
            if place.is_file():
                print(f"written: {place}")
        if result["stopped"]:
            return 130
        return 0 if any(row["status"] == "done" for row in result["contestants"]) else 1

    def _folder(self) -> Path:
        if self.out is not None:
            return self.out
        if self.json is None:
            raise DataError(
                "nowhere to put the twins",
                where="physgym compare",
                expected="--out FOLDER, or --json FILE",
                fix="--out compared",
            )
        if not self.json.suffix:
            raise DataError(
                f"{self.json}", where="--json", expected="a name that ends in .json", fix="--out"
            )
        return self.json.with_suffix("")
