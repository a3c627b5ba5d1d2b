"""From images to Gaussians: posed views, losses, static and dynamic clouds."""
