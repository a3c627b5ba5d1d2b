"""The `physgym` command: finds what each package registers under `physgym.commands`.

A command is a frozen dataclass with a ``run()`` method: its fields are the flags, the first line
of its docstring is what ``physgym --help`` says about it. The overview reads that line from the
source, so asking for help imports no solver, no torch and no ROS.

Exit codes: 0 done, 1 the command says no (a check failed), 2 wrong use or a `PhysGymError`,
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import ast
import difflib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from physgym import __version__
from physgym.errors import PhysGymError

__all__ = ["COMMAND_GROUP", "main"]

COMMAND_GROUP = "physgym.commands"
_OWN_PACKAGES = ("physgym", "recon", "policies", "physgym_ros")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command, or say which commands there are; always ends in ``SystemExit``.

    Args:
        argv: the words after ``physgym``; those of the process when absent.

    Raises:
        SystemExit: always, with the exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except PhysGymError as error:
        print(f"physgym: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("physgym: stopped", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader went away (`physgym ... | head`): not our failure, and nobody is left to tell.
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _dispatch(words: list[str]) -> int:
    entries = {entry.name: entry for entry in entry_points(group=COMMAND_GROUP)}
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview(entries))
        return 0
    name, *rest = words
    if name in ("-V", "--version"):
        print(f"physgym {__version__}")
        return 0
    if name not in entries:
        raise _unknown_command(name, entries)
    command = _load(entries[name])

    import tyro

    job = tyro.cli(command, prog=f"physgym {name}", args=rest)
    return int(job.run() or 0)


def _unknown_command(name: str, entries: dict[str, EntryPoint]) -> PhysGymError:
    near = difflib.get_close_matches(name, entries, n=3)
    return PhysGymError(
        f"there is no command {name!r}",
        where="the first word after `physgym`",
        expected=", ".join(sorted(entries)) or "a command, but no package registers any",
        fix=(
            " or ".join(f"`physgym {command}`" for command in near)
            if near
            else "`physgym --help` says what each command does"
        ),
    )


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in _OWN_PACKAGES:
            raise  # our own tree is incomplete: the traceback says where
        raise PhysGymError(
            f"the package {error.name!r} is not installed",
            where=f"command {entry.name!r} ({entry.value})",
            expected="every package that the command needs",
            fix="run `make setup`; `physgym doctor` shows what is missing and what that costs",
        ) from error


def _overview(entries: dict[str, EntryPoint]) -> str:
    width = max((len(name) for name in entries), default=0)
    lines = [
        "usage: physgym COMMAND [FLAGS]",
        "",
        "From a recording of a soft object to a twin, from the twin to a robot that handles it.",
        "",
        "commands:",
        *(f"  {name:<{width}}  {_summary(entries[name])}" for name in sorted(entries)),
        "",
        "`physgym COMMAND --help` lists a command's flags; `physgym --version` the version.",
    ]
    return "\n".join(lines)


def _summary(entry: EntryPoint) -> str:
    """First docstring line of the command's class, read from the source without importing it."""
    try:
        docstring = _class_docstring(entry.module, entry.attr)
    except (OSError, SyntaxError):
        docstring = None
    return docstring.strip().splitlines()[0] if docstring else f"({entry.value})"


def _class_docstring(module: str, name: str, depth: int = 3) -> str | None:
    """Docstring of a class, followed through at most `depth` `from X import` re-exports."""
    source = _source_file(module)
    if source is None:
        return None
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return ast.get_docstring(node)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level and depth > 0:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _class_docstring(node.module, alias.name, depth - 1)
    return None


def _source_file(module: str) -> Path | None:
    """Where a module's source lies; only the finder of the top package is asked, nothing runs."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None:
        return None
    if spec.submodule_search_locations is None:
        return Path(spec.origin) if spec.origin and not rest else None
    for folder in spec.submodule_search_locations:
        base = Path(folder, *rest)
        for candidate in (base / "__init__.py", base.with_suffix(".py")):
            if candidate.is_file():
                return candidate
    return None


if __name__ == "__main__":
    main()
