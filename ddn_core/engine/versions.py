"""Versions of tensors, which show that somebody changed a tensor in place, as autograd's own checks do."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(eq=False)
class TensorVersions:
    """Tensors that others can reach, with the version that each had when it was noted.

    A version is a number on the host, so that reading it does not wait for a device. It counts changes in place, also
    those through views and `detach()`, but not those through `.data` or NumPy.
    """

    _noted: dict[str, tuple[Tensor, int]] = field(default_factory=dict)

    def note(self, name: str, tensor: Tensor | None) -> None:
        """Note the version of a tensor, unless the name is noted already; tensors of inference mode have none."""
        if tensor is not None and name not in self._noted and not tensor.is_inference():
            self._noted[name] = tensor, tensor._version

    def changed(self) -> str | None:
        """Return the name of a tensor that has changed in place since it was noted, or `None`."""
        return next((name for name, (tensor, version) in self._noted.items() if tensor._version != version), None)
