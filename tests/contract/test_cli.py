"""The `physgym` command, run as people run it, with a package of commands made for the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = '''
"""Commands of another package."""
import sys
import time
from dataclasses import dataclass

from physgym.errors import DataError


@dataclass(frozen=True)
class Wait:
    """Wait until somebody interrupts.

    Attributes:
        seconds: how long [s].
    """

    seconds: float = 60.0

    def run(self) -> int:
        print("ready", flush=True)
        time.sleep(self.seconds)
        return 0


@dataclass(frozen=True)
class Spoiled:
    """Meet a file that is no good."""

    def run(self) -> int:
        raise DataError("frame 7 is NaN", where="tracks.npz", expected="numbers", fix="mask it")


@dataclass(frozen=True)
class Seven:
    """Return seven."""

    def run(self) -> int:
        return 7


@dataclass(frozen=True)
class Bug:
    """Have a bug."""

    def run(self) -> int:
        return [][1]


@dataclass(frozen=True)
class Chatter:
    """Say more than anybody reads."""

    def run(self) -> None:
        for _ in range(100_000):
            print("more")
'''
ENTRIES = """
[physgym.commands]
wait = plugin_face:Wait
spoiled = plugin_of_a_test:Spoiled
seven = plugin_of_a_test:Seven
bug = plugin_of_a_test:Bug
chatter = plugin_of_a_test:Chatter
lacking = plugin_lacking:Lacking
"""
LACKING = '''
import a_package_that_nobody_has


class Lacking:
    """Need what is not there."""
'''


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A real distribution on the path: found through entry points like any other."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "plugin_of_a_test.py").write_text(PLUGIN)
    (folder / "plugin_face.py").write_text("from plugin_of_a_test import Wait\n")
    (folder / "plugin_lacking.py").write_text(LACKING)
    info = folder / "plugin_of_a_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-of-a-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    inherited = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join(part for part in (str(folder), inherited) if part)
    return {**os.environ, "PYTHONPATH": path}


def physgym(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "physgym.cli", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_help_teaches_every_command(environment: dict[str, str]) -> None:
    """One line per command from its docstring, also through a re-export, even if it cannot load."""
    done = physgym(environment, "--help")
    assert done.returncode == 0
    lines = {words[0]: words[1:] for line in done.stdout.splitlines() if (words := line.split())}
    assert " ".join(lines["wait"]) == "Wait until somebody interrupts."
    assert " ".join(lines["lacking"]) == "Need what is not there."
    assert " ".join(lines["doctor"]).startswith("Show what this machine has")
    assert physgym(environment).stdout == done.stdout


def test_version() -> None:
    """The version is that of the package."""
    from physgym import __version__

    assert physgym(dict(os.environ), "--version").stdout == f"physgym {__version__}\n"


def test_command_help_lists_flags(environment: dict[str, str]) -> None:
    """A command's flags come from its fields and their docstring."""
    done = physgym(environment, "wait", "--help")
    assert done.returncode == 0
    assert "--seconds" in done.stdout
    assert "how long" in done.stdout


def test_unknown_command_suggests_near_ones(environment: dict[str, str]) -> None:
    """A slip of the finger is answered with the command that was meant; nothing on stdout."""
    done = physgym(environment, "docter")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "'docter'" in done.stderr
    assert "`physgym doctor`" in done.stderr


def test_unknown_flag_is_refused(environment: dict[str, str]) -> None:
    """Nothing on the command line is passed over."""
    done = physgym(environment, "seven", "--eight", "8")
    assert done.returncode == 2
    assert "--eight" in done.stderr


def test_error_is_text_with_code_2(environment: dict[str, str]) -> None:
    """What, where, expected, to do: on stderr, without a traceback."""
    done = physgym(environment, "spoiled")
    assert done.returncode == 2
    assert done.stdout == ""
    for part in ("frame 7 is NaN", "tracks.npz", "numbers", "mask it"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_exit_code_of_the_command_is_handed_on(environment: dict[str, str]) -> None:
    """A check that fails can say so to a script."""
    assert physgym(environment, "seven").returncode == 7


def test_bug_keeps_its_traceback(environment: dict[str, str]) -> None:
    """A defect of ours is not dressed up as the user's mistake."""
    done = physgym(environment, "bug")
    assert done.returncode == 1
    assert "IndexError" in done.stderr


def test_missing_package_says_what_to_install(environment: dict[str, str]) -> None:
    """A command whose package is absent names it, and the others still work."""
    done = physgym(environment, "lacking")
    assert done.returncode == 2
    assert "a_package_that_nobody_has" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_with_130(environment: dict[str, str]) -> None:
    """Ctrl-C is no error of anybody: one line, code 130."""
    command = [sys.executable, "-m", "physgym.cli", "wait"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "physgym: stopped\n"


def test_reader_that_leaves_is_no_error(environment: dict[str, str]) -> None:
    """`physgym ... | head` ends quietly."""
    command = [sys.executable, "-m", "physgym.cli", "chatter"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(timeout=60) == 0
    assert said == ""


def test_installed_command_is_the_module(environment: dict[str, str]) -> None:
    """The script that pip makes runs the same main."""
    script = Path(sys.executable).with_name("physgym")
    if not script.is_file():
        pytest.skip("physgym is not installed as a command")
    done = subprocess.run([str(script), "--help"], env=environment, capture_output=True, text=True)
    assert done.stdout == physgym(environment, "--help").stdout
