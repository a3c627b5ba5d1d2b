"""An episode without its depth: ``python -m recon.benchmark_looks.without_depth EPISODE OUT``.

What colour cameras alone would have recorded of the same motion, so that methods can be compared
with depth and without.
"""

from __future__ import annotations

import sys
from pathlib import Path

from recon.episode import Episode
from recon.episode_write import EpisodeWriter

__all__ = ["without_depth"]


def without_depth(source: Path, out: Path) -> Path:
    """Copy colour images and the true motion of an episode; no depth, no masks, no grippers.

    Args:
        source: the episode.
        out: the copy's folder; must not exist.

    Returns:
        The copy's folder.

    Raises:
        DataError: if the episode cannot be read, or the folder exists.
    """
    with Episode.open(source) as episode:
        sets, truth = episode.synchronized(), episode.ground_truth()
        metadata = {"source": f"{episode.name} without depth", "simulated": True}
        about = episode.metadata.get("object")
        if about is not None:
            metadata["object"] = about
        cameras = [episode.cameras[name] for name in sets.cameras]
        with EpisodeWriter(out, cameras, name=out.name, metadata=metadata) as writer:
            for t, stamp_s in enumerate(sets.stamp_s):
                for c, name in enumerate(sets.cameras):
                    rgb = episode.frame(name, int(sets.index[t, c])).rgb
                    writer.write_frame(name, float(stamp_s), rgb, None)
            if truth is not None:
                writer.set_ground_truth(truth)
    return writer.path


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(without_depth(Path(sys.argv[1]), Path(sys.argv[2])))
