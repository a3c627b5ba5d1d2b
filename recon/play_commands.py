"""The command `play`: twins, episodes and runs in the browser."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from physgym.errors import DataError

if TYPE_CHECKING:
    from physgym.twin import Twin
    from physgym.viewer.recording import Recording
    from recon.perception.result import Perception

__all__ = ["Play"]


@dataclass(frozen=True)
class Play:
    """Look at a twin, an episode or a run in the browser, and play with the twin.

    A twin is simulated in real time under two hands: W S A D Q E move the left one, I K J L U O the
    right one, the mouse drags the body. --episode shows its prediction beside that recording.
    Nothing is fetched from the network, and the page is reached from this machine only, unless
    --host says otherwise. Ctrl-C ends it.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """A twin's folder, an episode, tracks (.npz), or the folder of a run (`physgym demo`)."""
    episode: Path | None = None
    """Of a twin: an episode or tracks that it predicts, shown beside the recording."""
    calibration: Path | None = None
    """Of an episode: file with T_world_cam of its cameras, in place of its own."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets others on your network in, who may then do all you may."""
    port: int = 8080
    """Port to listen on; the next free one when it is taken. 0: any free one."""
    device: str = "auto"
    """What simulates: auto, cpu or cuda."""
    seconds: float | None = None
    """End after so long [s]."""
    json: bool = False
    """Print what is shown and where as one JSON document, at the start."""

    def run(self) -> int:
        """Serve the page until Ctrl-C.

        Returns:
            0.

        Raises:
            PhysGymError: if there is nothing to show, or no page can be served.
        """
        from physgym.viewer.app import Viewer

        with ExitStack() as stack:
            twin, recordings = self._opened(stack)
            viewer = Viewer(twin, recordings, host=self.host, port=self.port, device=self.device)
            stack.callback(viewer.stop)
            viewer.start()
            self._say(viewer.url, twin, recordings)
            try:
                viewer.wait(self.seconds)
            except KeyboardInterrupt:
                if not self.json:
                    print("stopped")
        return 0

    def _say(self, url: str, twin: Twin | None, recordings: list[Recording]) -> None:
        about: dict[str, Any] = {
            "url": url,
            "twin": None if twin is None else twin.name,
            "recordings": [recording.name for recording in recordings],
        }
        if self.json:
            print(json.dumps(about), flush=True)
            return
        shown = [] if twin is None else [f"twin {twin.name}"]
        shown += [f"recording {name}" for name in about["recordings"]]
        print(f"showing {', '.join(shown)}\nopen {url} in a browser; Ctrl-C ends", flush=True)

    def _opened(self, stack: ExitStack) -> tuple[Twin | None, list[Recording]]:
        """The twin and the recordings."""
        from physgym.twin import Twin, is_twin_folder
        from recon.playable import of_tracks
        from recon.reconstruct import is_episode

        source = self.source.expanduser()
        if not source.exists():
            raise DataError("no such file or folder", where=str(source), expected=_EXPECTED)
        if is_twin_folder(source):
            twin = Twin.load(source)
            found = [] if self.episode is None else self._recordings(self.episode, twin, stack)
            return twin, found
        if self.episode is not None:
            raise DataError(
                f"--episode, but {source} is no twin", where="play", expected="a twin's folder"
            )
        if is_twin_folder(source / "twin"):
            twin = Twin.load(source / "twin")
            return twin, of_tracks(_tracks_of_run(source), twin, _goal(source))
        if is_episode(source) or source.suffix == ".npz":
            return None, self._recordings(source, None, stack)
        raise DataError("nothing that can be shown", where=str(source), expected=_EXPECTED)

    def _recordings(self, source: Path, twin: Twin | None, stack: ExitStack) -> list[Recording]:
        from recon.importers import load_recordings, phystwin_final
        from recon.playable import of_episode, of_perception, of_tracks
        from recon.reconstruct import is_episode

        source = source.expanduser()
        if not is_episode(source):
            return of_tracks(load_recordings(source), twin)
        perception = self._perception(source, twin)
        prediction = None
        if twin is not None and perception is not None:
            from recon.predict_episode import predict_episode

            found = predict_episode(twin, perception)
            prediction = found.points[:, found.visible_surface]
        if phystwin_final.matches(source) and perception is not None:
            return [of_perception(perception, prediction)]
        from recon.episode import Episode

        episode = stack.enter_context(Episode.open(source, calibration=self.calibration))
        return [of_episode(episode, perception, prediction)]

    def _perception(self, source: Path, twin: Twin | None) -> Perception | None:
        """What is known of an episode: what a prediction needs, or what lies beside it."""
        from recon.importers import phystwin_final
        from recon.perception.perceive_config import PerceiveConfig
        from recon.perception.perceive_episode import cache_path
        from recon.perception.result import Perception
        from recon.score_source import known_perception

        if twin is not None or phystwin_final.matches(source):
            config = PerceiveConfig() if twin is None else PerceiveConfig(kind=twin.kind)
            return known_perception(source, config, calibration=self.calibration)
        beside = cache_path(source)
        return Perception.load(beside) if beside.is_file() else None


_EXPECTED = "a twin's folder, an episode, tracks (.npz), or a run's folder that holds a twin"


def _tracks_of_run(run: Path) -> list[Any]:
    """Recordings that a run kept: those held out first, since they show what a twin is worth."""
    from recon.importers import load_recordings

    made: list[Any] = []
    for folder in (run / "recordings" / "held_out", run / "recordings" / "train"):
        if folder.is_dir() and any(folder.glob("*.npz")):
            made += load_recordings(folder)
    return made


def _goal(run: Path) -> Any:
    from recon.npz import read_npz

    file = run / "goal.npz"
    return read_npz(file).get("points") if file.is_file() else None
