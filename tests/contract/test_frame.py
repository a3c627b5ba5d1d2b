"""The frame holds together: pins, Python versions, make targets, documents, what files may hold."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = ("3.10", "3.11", "3.12")
# Documents and images whose commands must exist.
CALLERS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/benchmarks.md", ".ci/run")
DOCKERFILES = sorted(path.name for path in (REPOSITORY / "docker").glob("Dockerfile.*"))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def environment(python: str) -> dict[str, str]:
    """Markers of a Linux machine; with the last patch release, whose number no pin depends on."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.19",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "extra": "",
    }


def pins(python: str) -> dict[str, list[str]]:
    """Every pinned version of every package that applies to a Python version."""
    found: dict[str, list[str]] = {}
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        entry = Requirement(text)
        (specifier,) = entry.specifier
        assert specifier.operator == "==", f"{text} is no pin"
        if entry.marker is None or entry.marker.evaluate(environment(python)):
            found.setdefault(canonical(entry.name), []).append(specifier.version)
    return found


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(text) for group in (PROJECT["dependencies"], *extras) for text in group]


def repository_files() -> list[Path]:
    """Files that belong to the repository: tracked, or new and not ignored."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout, so what belongs to the repository is unknown")
    files = [REPOSITORY / name for name in done.stdout.split("\0") if name]
    return [path for path in files if path.is_file()]


def texts() -> list[tuple[str, str]]:
    found = []
    for path in repository_files():
        try:
            found.append((str(path.relative_to(REPOSITORY)), path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue  # an image or an array
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_each_dependency_has_one_pin_that_fits(python: str) -> None:
    """Whoever installs with constraints.txt gets one version, and one that we accept."""
    pinned = pins(python)
    for name, versions in pinned.items():
        assert len(versions) == 1, f"{name} has several pins for Python {python}: {versions}"
    for entry in requirements():
        if entry.marker is not None and not entry.marker.evaluate(environment(python)):
            continue
        name = canonical(entry.name)
        assert name in pinned, f"{entry.name} has no pin for Python {python}: make constraints"
        assert pinned[name][0] in entry.specifier, f"the pin of {entry.name} contradicts pyproject"


def test_pins_of_this_environment_are_installed() -> None:
    """What the tests run on is what is pinned (a local build such as +cpu is the same version)."""
    from importlib.metadata import PackageNotFoundError, version

    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    pinned = pins(python)
    wrong = {}
    for entry in requirements():
        name = canonical(entry.name)
        if name not in pinned:
            continue
        try:
            found = version(entry.name).partition("+")[0]
        except PackageNotFoundError:
            continue  # an extra that this machine goes without
        if found != pinned[name][0]:
            wrong[entry.name] = (found, pinned[name][0])
    assert not wrong, f"installed, pinned: {wrong}; run make setup"


def test_python_versions_agree() -> None:
    """requires-python, the classifiers, the linters and the doctor name the same versions."""
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert [minor for minor in range(20) if f"3.{minor}.1" in allowed] == [10, 11, 12]
    prefix = "Programming Language :: Python :: "
    named = [text.removeprefix(prefix) for text in PROJECT["classifiers"] if prefix in text]
    assert tuple(named) == PYTHONS
    tools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tools["ruff"]["target-version"] == "py310"
    assert tools["mypy"]["python_version"] == "3.10"


def test_torch_is_pinned_where_the_project_says_so() -> None:
    """torch has one version, in pyproject.toml too."""
    (torch,) = (entry for entry in requirements() if entry.name == "torch")
    assert str(torch.specifier) == "==2.13.0"


def make_targets() -> set[str]:
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", text, flags=re.MULTILINE))


@pytest.mark.parametrize("caller", [*CALLERS, *(f"docker/{name}" for name in DOCKERFILES)])
def test_named_make_targets_exist(caller: str) -> None:
    """A document or image that calls a target calls one that is there."""
    text = (REPOSITORY / caller).read_text(encoding="utf-8").replace('", "', " ")
    called = set()
    for arguments in re.findall(r"(?:^ {4}|`|exec |RUN |\[\")make((?: [^\s#`&;\"]+)+)", text, re.M):
        called |= {word for word in arguments.split() if re.fullmatch("[a-z][a-z-]*", word)}
    assert called <= make_targets(), f"{caller} names {called - make_targets()}"
    if not caller.endswith(("CHANGELOG.md",)):
        assert called, f"{caller} calls no make target: is this test still looking right?"


def test_every_phony_target_exists() -> None:
    """What the Makefile declares, it has."""
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)
    assert set(phony.split()) <= make_targets()


@pytest.mark.parametrize("target", ["setup", "demo", "test", "lint", "bench", "gpu-check"])
def test_target_can_be_planned(target: str) -> None:
    """make understands its file and knows how each target would be made (nothing is run)."""
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", target],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_sourced_ros_brings_its_own_rclpy() -> None:
    """Wheels of ROS beside a sourced ROS would mix two sets of libraries."""
    for distro, wheels in (("jazzy", False), ("", True)):
        done = subprocess.run(
            ["make", "--dry-run", "--always-make", "setup", f"ROS_DISTRO={distro}"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )
        (install,) = re.findall(r'-e "\.\[(.*)\]"', done.stdout)
        assert ("ros" in install.split(",")) == wheels


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile_is_ours_to_run(name: str) -> None:
    """Images fix their base, install by the Makefile alone, and do not run as root."""
    lines = (REPOSITORY / "docker" / name).read_text(encoding="utf-8").splitlines()
    base = next(line for line in lines if line.startswith("FROM "))
    assert re.fullmatch(r"FROM [\w./-]+:(?!latest)[\w.-]+", base)
    runs = [line for line in lines if line.startswith("RUN ")]
    assert any(line.startswith("RUN make setup") for line in runs)
    assert not any("pip install" in line for line in lines)
    last_user = [line for line in lines if line.startswith("USER ")][-1]
    assert last_user != "USER root"


def test_links_between_documents_lead_somewhere() -> None:
    """No document points to a file that is not there."""
    for name, text in texts():
        if not name.endswith(".md"):
            continue
        for link in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in link:
                assert (REPOSITORY / name).parent.joinpath(link).exists(), f"{name}: {link}"


def test_shell_scripts_parse() -> None:
    """bash reads each script; each stops at the first error."""
    scripts = [path for path in repository_files() if path.suffix == ".sh" or path.name == "run"]
    assert scripts
    for script in scripts:
        done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "set -euo pipefail" in script.read_text(encoding="utf-8")


def test_no_machine_paths_in_files() -> None:
    """Nothing in the repository knows the machine it was written on."""
    # Put together here, so that this file does not hold what it looks for.
    folders = "|".join(("wor" + "k", "roo" + "t", "far" + "m", "tm" + "p"))
    pattern = re.compile(rf"(?<![\w./-])/(?:{folders})/\w")
    found = [
        f"{name}: {line.strip()}"
        for name, text in texts()
        for line in text.splitlines()
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


def test_nothing_loads_a_pickle() -> None:
    """Not by pickle, torch, NumPy, joblib or an unsafe YAML loader."""
    calls = ("pickle.loa" + "d", "torch.loa" + "d(", "allow_pickle=Tru" + "e", "joblib.loa" + "d")
    yaml = re.compile(r"yaml\.(unsafe_load|full_load|load)\(")
    found = [
        f"{name}: {call}"
        for name, text in texts()
        if name.endswith(".py")
        for call in (*(call for call in calls if call in text), *yaml.findall(text))
    ]
    assert not found, "\n".join(found)


def test_test_files_have_unique_names() -> None:
    """Without packages in tests/, pytest tells files apart by their name alone."""
    names = [path.name for path in (REPOSITORY / "tests").rglob("test_*.py")]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)


def test_licence_is_apache() -> None:
    """The full text, as the metadata say."""
    assert PROJECT["license"] == "Apache-2.0"
    text = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
