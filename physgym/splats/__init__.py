"""Gaussian clouds: files, images of them with gradients, and Gaussians that follow a simulation."""

from physgym.splats.cloud import GaussianCloud, Gaussians
from physgym.splats.ply import load_ply, save_ply
from physgym.splats.rasterize import Render, rasterize

__all__ = ["GaussianCloud", "Gaussians", "Render", "load_ply", "rasterize", "save_ply"]
