"""`physgym doctor`: what this machine has, what is missing, what that switches off, what to do.

Every probe runs in a process of its own, so a library that crashes or hangs is a finding and not
the end of the doctor. Other packages add probes under the entry point group `physgym.probes`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Literal

from physgym import __version__
from physgym.errors import DeviceError, PhysGymError

__all__ = ["PROBE_GROUP", "Doctor", "Finding", "Probe", "collect_probes", "examine"]

PROBE_GROUP = "physgym.probes"
_MARK = "physgym-doctor:"
_WORKER = "import sys; from physgym.doctor import _work; _work(sys.argv[1])"


@dataclass(frozen=True)
class Probe:
    """One thing to look at.

    Attributes:
        name: row of the table, key of the JSON.
        run: returns a line about what is there. Raises ModuleNotFoundError or DeviceError when it
            is not there; any other exception means that it is there and does not work.
        switches_off: what cannot be done without it.
        fix: what the user can do about it.
        core: whether nothing works without it.
    """

    name: str
    run: Callable[[], str]
    switches_off: str
    fix: str
    core: bool = False


@dataclass(frozen=True)
class Finding:
    """What a probe found.

    Attributes:
        name: name of the probe.
        status: "ok", "missing" (not there) or "broken" (there, and does not work).
        detail: versions and devices, or why not.
        switches_off: what cannot be done now; empty when ok.
        fix: what to do; empty when ok.
        core: whether nothing works without it.
    """

    name: str
    status: Literal["ok", "missing", "broken"]
    detail: str
    switches_off: str
    fix: str
    core: bool


@dataclass(frozen=True)
class Doctor:
    """Show what this machine has, what is missing, what that switches off and what to do.

    Attributes:
        json: print one JSON object instead of a table.
        timeout_s: how long one probe may take [s].
    """

    json: bool = False
    timeout_s: float = 90.0

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise PhysGymError(
                f"timeout_s is {self.timeout_s}",
                where="physgym doctor --timeout-s",
                expected="a time above 0 s",
                fix="leave it out",
            )

    def run(self) -> int:
        """Run all probes and report.

        Returns:
            0 when the core works, 1 when it does not.
        """
        from rich.console import Console

        # Progress goes to stderr: stdout carries the report alone.
        with Console(stderr=True).status("looking around (about ten seconds)"):
            findings = examine(collect_probes(), timeout_s=self.timeout_s)
        works = all(finding.status == "ok" for finding in findings if finding.core)
        if self.json:
            rows = {finding.name: _without_name(finding) for finding in findings}
            print(json.dumps({"ok": works, "physgym": __version__, "probes": rows}, indent=2))
        else:
            _print_table(findings, works)
        return 0 if works else 1


def collect_probes() -> list[Probe]:
    """All probes: those of the ground floor, then those that other packages register.

    Returns:
        The probes in the order in which they are shown.
    """
    from physgym.probes import PROBES

    registered = sorted(entry_points(group=PROBE_GROUP), key=lambda entry: entry.name)
    return [*PROBES, *(_load(entry) for entry in registered)]


def _load(entry: EntryPoint) -> Probe:
    """A registered probe; one that does not even load becomes a probe that says so."""
    try:
        probe: Probe = entry.load()
        return probe
    except Exception as error:  # whatever another package does, the doctor goes on
        reason = f"{entry.value} does not load: {type(error).__name__}: {error}"

    def refuse() -> str:
        raise ImportError(reason)

    return Probe(
        name=entry.name,
        run=refuse,
        switches_off=f"what {entry.name} checks",
        fix="mend or remove the package that registers it",
    )


def examine(probes: Sequence[Probe], *, timeout_s: float = 90.0) -> list[Finding]:
    """Run probes, each in its own process, a few at a time.

    Args:
        probes: what to look at; each must be one that `collect_probes` returns.
        timeout_s: how long one probe may take [s].

    Returns:
        One finding per probe, in the same order.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(lambda probe: _examine_one(probe, timeout_s), probes))


def _examine_one(probe: Probe, timeout_s: float) -> Finding:
    # A folder of its own: MuJoCo and others write logs into the current one.
    with tempfile.TemporaryDirectory(prefix="physgym-doctor-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-c", _WORKER, probe.name],
                cwd=folder,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired:
            return _finding(probe, "broken", f"no answer within {timeout_s:g} s")
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(_MARK):
            status, detail = json.loads(line.removeprefix(_MARK))
            return _finding(probe, status, detail)
    return _finding(probe, "broken", f"the process {_ending(done.returncode)}")


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _finding(probe: Probe, status: Literal["ok", "missing", "broken"], detail: str) -> Finding:
    well = status == "ok"
    return Finding(
        name=probe.name,
        status=status,
        detail=detail,
        switches_off="" if well else probe.switches_off,
        fix="" if well else probe.fix,
        core=probe.core,
    )


def _work(name: str) -> None:
    """Body of a probe's process: run it and print what it found behind a mark."""
    probe = next(probe for probe in collect_probes() if probe.name == name)
    status, detail = "ok", ""
    try:
        detail = probe.run()
    except ModuleNotFoundError as error:
        status, detail = "missing", str(error)
    except DeviceError as error:
        status, detail = "missing", error.what
    except Exception as error:  # a doctor reports whatever the patient does
        status, detail = "broken", f"{type(error).__name__}: {error}"
    sys.stdout.flush()
    first_line = detail.strip().splitlines()[0] if detail.strip() else ""
    print(_MARK + json.dumps([status, first_line]), flush=True)
    # Some libraries crash while they tear down; what was found is already told.
    os._exit(0)


def _without_name(finding: Finding) -> dict[str, object]:
    row = asdict(finding)
    del row["name"]
    return row


def _print_table(findings: Sequence[Finding], works: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "missing": "yellow", "broken": "red"}
    table = Table(title=f"physgym {__version__}", title_justify="left", show_lines=False)
    for heading in ("what", "state", "found"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        found = Text(finding.detail)
        if finding.status != "ok":
            found.append(f"\noff: {finding.switches_off}\nto do: {finding.fix}", style="dim")
        table.add_row(
            finding.name + (" *" if finding.core else ""),
            Text(finding.status, style=styles[finding.status]),
            found,
        )
    console = Console()
    console.print(table)
    if works:
        console.print("The core (*) works.", style="green")
    else:
        console.print("The core (*) does not work: mend the rows marked * first.", style="red")
