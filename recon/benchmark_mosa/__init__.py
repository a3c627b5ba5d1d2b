"""The benchmark of continuum twins (MoSA): what the adapter learns, and what it is worth.

Truth comes from a finite-element solver (presets: from the material point method, finer). Every
part leaves its fits and its figures in a folder; a run that was cut off goes on where it was.

    FOLDER/compression/ generalisation/ isotropic/ presets/ priors/  fits and PART.json
    FOLDER/mosa.json  mosa.md  mosa_moduli_TRUTH.png  mosa_drops.png
"""

from __future__ import annotations

from recon.benchmark_mosa.run import PARTS, run_mosa

__all__ = ["PARTS", "run_mosa"]
