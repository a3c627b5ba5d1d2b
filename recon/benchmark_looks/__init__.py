"""The benchmark of looks: three bodies before four cameras, every method on each of them.

An elastic toy that falls, a block with a stiff and a soft half that falls (Spring-Gaus's ablation,
Zhong et al. 2024: one stiffness for all springs beside one for each anchor), and a toy that a
gripper lifts. Falls are simulated by finite elements (`film`), the lift by MuJoCo: neither is a
twin's solver. 20 frames are learned from and 10 predicted, as Spring-Gaus has it.

    FOLDER/OBJECT/ episode/  compared/   see `recon.compare`
           looks.json  looks.md
"""

from recon.benchmark_looks.objects import OBJECTS
from recon.benchmark_looks.run import looks_markdown, run_looks

__all__ = ["OBJECTS", "looks_markdown", "run_looks"]
