"""Adam on the parameters of a Gaussian cloud whose members come and go.

Shapes: G Gaussians.
"""

from __future__ import annotations

import torch

from physgym.splats.cloud import GaussianCloud

__all__ = ["CloudOptimizer"]


class CloudOptimizer:
    """One Adam group per field of the cloud; moments follow the Gaussians.

    Args:
        cloud: where it starts.
        rates: learning rate by field; a field without one stays as it is.
    """

    def __init__(self, cloud: GaussianCloud, rates: dict[str, float]) -> None:
        self._fields = {name: value.detach().clone() for name, value in vars(cloud).items()}
        for name in rates:
            self._fields[name].requires_grad_()
        groups = [{"params": [self._fields[n]], "lr": r, "name": n} for n, r in rates.items()]
        self._adam = torch.optim.Adam(groups, eps=1e-15)

    def __len__(self) -> int:
        """G."""
        return len(self._fields["mean"])

    def cloud(self) -> GaussianCloud:
        """The cloud now; gradients flow to what is fitted."""
        return GaussianCloud(**self._fields)

    def grad(self, name: str) -> torch.Tensor | None:
        """Gradient of a field after a backward pass.

        Args:
            name: of the field.

        Returns:
            Shape of the field, or None.
        """
        return self._fields[name].grad

    def set_rate(self, name: str, rate: float) -> None:
        """Change a learning rate.

        Args:
            name: of a field that has one.
            rate: the new one.
        """
        for group in self._adam.param_groups:
            if group["name"] == name:
                group["lr"] = rate

    def step(self) -> None:
        """One step of Adam; gradients are cleared."""
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def change(self, kept: torch.Tensor, added: GaussianCloud | None = None) -> None:
        """Keep some Gaussians, with their moments, and add new ones, with none.

        Args:
            kept: indices or a mask.
            added: new ones.
        """
        for name, old in self._fields.items():
            value = old.detach()[kept]
            if added is not None:
                value = torch.cat([value, getattr(added, name).detach()])
            self._fields[name] = value.requires_grad_(old.requires_grad)
        for group in self._adam.param_groups:
            old = group["params"][0]
            new = self._fields[group["name"]]
            state = self._adam.state.pop(old, None)
            group["params"][0] = new
            if state is None:
                continue
            for moment in ("exp_avg", "exp_avg_sq"):
                fresh = torch.zeros_like(new)
                old_rows = state[moment][kept]
                fresh[: len(old_rows)] = old_rows
                state[moment] = fresh
            self._adam.state[new] = state

    def reset_moments(self, name: str) -> None:
        """Forget how a field moved, after it was set.

        Args:
            name: of a field that has a learning rate.
        """
        for group in self._adam.param_groups:
            if group["name"] == name:
                self._adam.state.pop(group["params"][0], None)

    def set(self, name: str, value: torch.Tensor) -> None:
        """Set a field to other values of the same shape.

        Args:
            name: of the field.
            value: new values.
        """
        with torch.no_grad():
            self._fields[name].copy_(value)
        self.reset_moments(name)
