"""From the settings of a job to the configuration of its method."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recon.identify.episode_fit import EpisodeConfig
    from recon.identify.mosa_config import MosaConfig
    from recon.identify.spring_gaus_config import SpringGausConfig
    from recon.reconstruct import ReconstructConfig

__all__ = ["image_method_config", "method_config"]


def method_config(
    config: ReconstructConfig, mass_kg: float | None
) -> EpisodeConfig | MosaConfig | SpringGausConfig:
    """What the method of a job is to find.

    Args:
        config: of the job.
        mass_kg: of the object, where it is known.

    Returns:
        The method's configuration.
    """
    if config.method != "phystwin":
        return image_method_config(config, mass_kg)
    from recon.identify.episode_fit import EpisodeConfig

    return EpisodeConfig(
        budget=config.budget,
        seed=config.seed,
        train_share=config.train_share,
        mass_kg=mass_kg,
        self_collision=config.self_collision,
        most_nodes=config.nodes,
    )


def image_method_config(
    config: ReconstructConfig, mass_kg: float | None
) -> MosaConfig | SpringGausConfig:
    """The same of the methods that can do without depth.

    Args:
        config: of the job; its method is ``mosa`` or ``spring-gaus``.
        mass_kg: of the object, where it is known.

    Returns:
        The method's configuration.
    """
    if config.method == "mosa":
        return _mosa_config(config, mass_kg)
    from recon.identify.spring_gaus_config import SpringGausConfig

    return SpringGausConfig(
        budget=config.budget,
        seed=config.seed,
        mass_kg=mass_kg,
        anchors=min(config.nodes, SpringGausConfig.anchors),
    )


def _mosa_config(config: ReconstructConfig, mass_kg: float | None) -> MosaConfig:
    from recon.identify.mosa_config import MosaConfig
    from recon.identify.motion_losses import MotionWeights

    weights = MotionWeights()
    return MosaConfig(
        prior=config.prior,
        adapter=config.adapter,
        heterogeneity=config.heterogeneity,
        budget=config.budget,
        seed=config.seed,
        train_share=config.train_share,
        mass_kg=mass_kg,
        weights=weights.only(config.losses) if config.losses else weights,
    )
