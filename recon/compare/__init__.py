"""Every method on the same episode: twins, figures, one table, one report.

`compare` runs each contestant in a process of its own, so that its memory is its own and its crash
is a row of the table.

    FOLDER/config.yaml  run.json          what is compared (`physgym.run_folder`)
           NAME/ twin/  result.json  score.json  nodes.npz  log.txt
           compare.json  compare.md  report.html
"""

from recon.compare.contestants import (
    METHODS,
    Contestant,
    contestants_of,
    read_settings,
    train_stop_of,
)
from recon.compare.run import CompareConfig, compare

__all__ = [
    "METHODS",
    "CompareConfig",
    "Contestant",
    "compare",
    "contestants_of",
    "read_settings",
    "train_stop_of",
]
