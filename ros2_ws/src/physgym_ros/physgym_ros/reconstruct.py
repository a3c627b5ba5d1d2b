"""Node `reconstruct`: turns the episode that its parameters name into a twin.

Services ``~/start`` and ``~/cancel`` (std_srvs/Trigger). Publishes ``~/progress`` and, latched,
``~/result``, both diagnostic_msgs/DiagnosticStatus: a standard message, so that the robot's own
tools show it, with a level for failure and typed fields; JSON in a String has neither, and an
action would need a message package of our own. Parameters are read at ``~/start``, so one node
serves one episode after the other (``ros2 param set /reconstruct episode ...``).
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from std_srvs.srv import Trigger

from physgym.errors import DataError, PhysGymError
from physgym_ros import conversions, conversions_capture, qos
from physgym_ros.parameters import parameter
from physgym_ros.process import run_node
from recon.identify.progress import Progress

__all__ = ["ReconstructNode", "ReconstructParameters", "StageProgress", "main"]

_PERIOD_S = 0.1
_END_S = 8.0  # what a job may take to write the best so far when the node is stopped


@dataclass(frozen=True)
class ReconstructParameters:
    """ROS parameters of `reconstruct`; see `recon.reconstruct.ReconstructConfig`."""

    episode: str = parameter("", "Folder of the episode.")
    out: str = parameter("", "Folder of the twin; empty: EPISODE_twin beside the episode.")
    method: str = parameter("phystwin", "How the twin is identified: phystwin.")
    budget: str = parameter("quick", "quick or full.")
    kind: str = parameter("auto", "volume, sheet or rope; auto looks at the first frame.")
    mass_kg: float = parameter(0.0, "Mass of the object [kg]; 0: what the recording notes.")
    calibration: str = parameter("", "Places of the cameras from this file; empty: the episode's.")
    nodes: int = parameter(700, "Nodes of the simulated network at most.")
    seed: int = parameter(0, "Seed of the search.")
    resume: bool = parameter(False, "Go on with the run in OUT.run, which a cancelled job left.")


class StageProgress(Progress):
    """Hands stages on to a function, a few times a second, and lets a job be cancelled.

    Args:
        tell: takes stage, fraction of the stage done (0 to 1), and a line for people.
    """

    def __init__(self, tell: Callable[[str, float, str], None]) -> None:
        self._tell = tell
        self._cancel = threading.Event()
        self._stage = ""

    def cancel(self) -> None:
        """End the search at its next step; what it has found so far is kept."""
        self._cancel.set()

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int, float], None]]:
        """See `Progress.stage`."""
        self._stage, next_s = name, 0.0
        self._tell(name, 0.0, "")

        def tick(step: int, value: float) -> None:
            nonlocal next_s
            if self._cancel.is_set():
                self._cancel.clear()
                raise KeyboardInterrupt  # what every search takes as "keep the best so far"
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + _PERIOD_S
                fraction = min(max(step / max(total, 1), 0.0), 1.0)
                self._tell(name, fraction, f"step {step} of {total}, cost {value:.4g}")

        yield tick
        self._tell(name, 1.0, "")

    def say(self, text: str) -> None:
        """See `Progress.say`."""
        self._tell(self._stage, -1.0, text)


class ReconstructNode:
    """The node and the thread of its job.

    Args:
        stop: not used: a failed job does not end the node.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.exit_code = 0
        self.node = Node("reconstruct")
        for item in fields(ReconstructParameters):
            text = ParameterDescriptor(description=item.metadata["description"])
            self.node.declare_parameter(item.name, item.default, text)
        self._progress = self.node.create_publisher(DiagnosticStatus, "~/progress", qos.STATE)
        self._result = self.node.create_publisher(DiagnosticStatus, "~/result", qos.LATCHED)
        self.node.create_service(Trigger, "~/start", self._on_start)
        self.node.create_service(Trigger, "~/cancel", self._on_cancel)
        self._job: threading.Thread | None = None
        self._busy = False  # until the result is out: whoever hears it may start the next job
        self._watch = StageProgress(self._tell)
        self._began_s = self._fraction = 0.0

    def start(self) -> None:
        """Nothing runs before ``~/start``."""

    def stop(self) -> None:
        """Cancel the job, and give it time to write what it has found."""
        if self._job is not None and self._job.is_alive():
            self._watch.cancel()
            self._job.join(timeout=_END_S)
            if self._job.is_alive():
                self.node.get_logger().warning("the job did not end in time: it leaves no twin")

    def _on_start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._busy:
            return conversions_capture.answer(response, False, "a job is running: call ~/cancel")
        try:
            config = self._parameters()
        except PhysGymError as error:
            return conversions_capture.answer(response, False, str(error))
        out = Path(config.out or f"{config.episode.rstrip('/')}_twin").expanduser()
        self._began_s = time.monotonic()
        self._watch = StageProgress(self._tell)
        self._job = threading.Thread(target=self._run, args=(config, out), daemon=True)
        self._busy = True
        self._job.start()
        return conversions_capture.answer(response, True, str(out))

    def _on_cancel(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self._busy:
            return conversions_capture.answer(response, False, "no job is running")
        self._watch.cancel()
        text = "the search ends at its next step; the result comes on ~/result"
        return conversions_capture.answer(response, True, text)

    def _parameters(self) -> ReconstructParameters:
        names = [item.name for item in fields(ReconstructParameters)]
        config = ReconstructParameters(**{n: self.node.get_parameter(n).value for n in names})
        if not config.episode or not Path(config.episode).expanduser().exists():
            raise DataError(
                f"no episode {config.episode!r}",
                where="parameter episode of node reconstruct",
                expected="a folder that the recorder wrote",
                fix="ros2 param set /reconstruct episode FOLDER",
            )
        return config

    def _run(self, config: ReconstructParameters, out: Path) -> None:
        values = {"episode": config.episode}
        try:
            self._tell("open", 0.0, config.episode)
            values |= _reconstruct(config, out, self._watch)
            early = values["stopped_early"] == "true"
            text = "cancelled: the best so far was kept" if early else "the twin is ready"
            word = int(early), text, values | {"twin": str(out)}
        except KeyboardInterrupt:
            word = 1, "cancelled before there was a twin", values
        except Exception as error:  # whatever it is: who waits for the result must hear of it
            known = isinstance(error, PhysGymError)
            why = str(error) if known else traceback.format_exc()
            self.node.get_logger().error(f"reconstruction failed: {why}")
            word = 2, why.splitlines()[0 if known else -1], values | {"detail": why}
        level, text, values = word
        values["elapsed_s"] = f"{time.monotonic() - self._began_s:.1f}"
        result = conversions.Report(0.0, "reconstruct", level, text, values)
        self._busy = False
        self._result.publish(conversions_capture.status(result))
        self.node.get_logger().info(f"{text}: {out}")

    def _tell(self, stage: str, fraction: float, text: str) -> None:
        # A line for people comes between two steps: the fraction stays.
        self._fraction = self._fraction if fraction < 0.0 else fraction
        values = {
            "stage": stage,
            "fraction": f"{self._fraction:.4f}",
            "elapsed_s": f"{time.monotonic() - self._began_s:.1f}",
        }
        word = conversions.Report(0.0, "reconstruct", 0, text or stage, values)
        self._progress.publish(conversions_capture.status(word))


def _reconstruct(config: ReconstructParameters, out: Path, progress: Progress) -> dict[str, str]:
    """Do it; what there is to say of the twin."""
    from recon.reconstruct import ReconstructConfig, reconstruct_episode

    wanted = ReconstructConfig(
        method=config.method,  # type: ignore[arg-type]  # it refuses what it does not know
        budget=config.budget,  # type: ignore[arg-type]
        kind=config.kind,  # type: ignore[arg-type]
        mass_kg=config.mass_kg or None,
        nodes=config.nodes,
        seed=config.seed,
        resume=config.resume,
        calibration=Path(config.calibration).expanduser() if config.calibration else None,
    )
    twin = reconstruct_episode(Path(config.episode).expanduser(), out, wanted, progress=progress)
    return {
        "name": twin.name,
        "kind": twin.kind,
        "dynamics": twin.dynamics,
        "method": twin.method,
        "stopped_early": str(bool(twin.provenance.get("stopped_early", False))).lower(),
        "metrics": json.dumps(twin.metrics),
    }


def main(argv: list[str] | None = None) -> int:
    """Entry point of `ros2 run physgym_ros reconstruct`.

    Args:
        argv: command line; None takes the process's own.

    Returns:
        The exit code.
    """
    return run_node(ReconstructNode, argv)


if __name__ == "__main__":
    sys.exit(main())
