"""The message package tf2_msgs, which every ROS distribution has and no wheel brings.

Its one message is generated and compiled with what the wheels of rclpy hold, so that ``/tf_static``
is tested as it is on a robot. Run as a script it generates the sources; `build` does it all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

_PARTS = ("generator_c", "generator_py", "typesupport_fastrtps_c", "typesupport_introspection_c")
_LIBRARIES = [
    f"{package}__rosidl_{part}"
    for package in ("geometry_msgs", "std_msgs", "builtin_interfaces")
    for part in _PARTS
] + [
    "rosidl_runtime_c",
    "rosidl_typesupport_fastrtps_cpp",
    "rosidl_typesupport_fastrtps_c",
    "rosidl_typesupport_introspection_c",
    "fastcdr",
    "rcutils",
]
# What rosidl_typesupport_c would look up at run time: each of the two type supports by its name.
_HANDLE = """
#include <string.h>
#include "rosidl_runtime_c/message_type_support_struct.h"
#define HANDLE(ts) ts##__get_message_type_support_handle__tf2_msgs__msg__TFMessage
typedef rosidl_message_type_support_t Support;
extern const Support * HANDLE(rosidl_typesupport_fastrtps_c)(void);
extern const Support * HANDLE(rosidl_typesupport_introspection_c)(void);
static const Support * choose(const Support * own, const char * name)
{
  if (!strcmp(name, "rosidl_typesupport_introspection_c"))
    return HANDLE(rosidl_typesupport_introspection_c)();
  if (!strcmp(name, "rosidl_typesupport_fastrtps_c"))
    return HANDLE(rosidl_typesupport_fastrtps_c)();
  return strcmp(name, own->typesupport_identifier) ? 0 : own;
}
const Support * HANDLE(rosidl_typesupport_c)(void)
{
  static Support own;
  own = *HANDLE(rosidl_typesupport_fastrtps_c)();
  own.typesupport_identifier = "rosidl_typesupport_c";
  own.func = choose;
  return &own;
}
"""


def missing() -> str:
    """What is not there to build with; empty when all is."""
    prefix = Path(sys.prefix)
    for tool in ("gcc", "g++"):
        if shutil.which(tool) is None:
            return f"no {tool}"
    if not (prefix / "include" / "geometry_msgs").is_dir():
        return "rclpy does not come from wheels with headers"
    return "" if (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file() else "no Python.h"


def build(folder: Path) -> Path:
    """Make the package.

    Args:
        folder: for what is generated.

    Returns:
        The folder to put on PYTHONPATH.
    """
    import numpy as np

    (folder / "msg").mkdir(parents=True)
    message = "geometry_msgs/TransformStamped[] transforms\n"
    (folder / "msg" / "TFMessage.msg").write_text(message)
    prefix, out = Path(sys.prefix), folder / "out"
    environment = os.environ | {"AMENT_PREFIX_PATH": str(prefix)}
    words = [sys.executable, __file__, str(folder), str(out)]
    subprocess.run(words, check=True, env=environment, capture_output=True, timeout=60)
    headers, package = out / "include" / "tf2_msgs", out / "site" / "tf2_msgs"
    for part in ("fastrtps_c", "introspection_c", "c"):
        shutil.copytree(out / part / "msg", headers / "msg", dirs_exist_ok=True)
    shutil.copytree(out / "py" / "msg", package / "msg")
    (package / "__init__.py").touch()
    (out / "handle.c").write_text(_HANDLE)
    detail = headers / "msg" / "detail"
    sources = [
        detail / "tf_message__functions.c",
        detail / "tf_message__description.c",
        detail / "tf_message__type_support_c.cpp",
        out / "introspection_c" / "msg" / "detail" / "tf_message__type_support.c",
        out / "handle.c",
        out / "py" / "msg" / "_tf_message_s.c",
        out / "py" / "_tf2_msgs_s.ep.rosidl_typesupport_c.c",
    ]
    places = [out / "include", prefix / "include", np.get_include()]
    places += [sysconfig.get_paths()["include"], *(prefix / "include").iterdir()]
    objects = []
    for source in sources:
        objects.append(str(out / f"{source.name}.o"))
        compiler = ["g++", "-std=c++17"] if source.suffix == ".cpp" else ["gcc"]
        words = [*compiler, "-w", "-fPIC", "-c", str(source), "-o", objects[-1]]
        words += [f"-I{place}" for place in places]
        subprocess.run(words, check=True, capture_output=True, timeout=120)
    module = f"tf2_msgs_s__rosidl_typesupport_c{sysconfig.get_config_var('EXT_SUFFIX')}"
    library = prefix / "lib"
    words = ["g++", "-shared", *objects, "-o", str(package / module), f"-L{library}"]
    words += [f"-Wl,-rpath,{library}", *(f"-l{name}" for name in _LIBRARIES)]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    return out / "site"


def _generate(folder: Path, out: Path) -> None:
    from importlib.metadata import distributions

    import rosidl_cli.entry_points as loader

    class Metadata:
        """The wheels name every generator twice, which rosidl_cli refuses."""

        @staticmethod
        def entry_points() -> type[Metadata]:
            return Metadata

        @staticmethod
        def select(group: str) -> list:
            every = [e for one in distributions() for e in one.entry_points if e.group == group]
            return list({entry.name: entry for entry in every}.values())

    loader.importlib_metadata = Metadata
    from rosidl_cli.command.generate.api import generate

    generate(
        package_name="tf2_msgs",
        interface_files=[f"{folder}:msg/TFMessage.msg"],
        include_paths=[str(Path(sys.prefix) / "share")],
        output_path=out,
        types=["c", "py"],
        typesupports=["fastrtps_c", "introspection_c"],
    )


if __name__ == "__main__":
    _generate(Path(sys.argv[1]), Path(sys.argv[2]))
