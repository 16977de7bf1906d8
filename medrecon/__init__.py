"""medrecon: medical image reconstruction with diffusion priors and classical solvers, inside MONAI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medrecon._version import __version__

__all__ = ["InputError", "Reconstruction", "__version__", "reconstruct"]

if TYPE_CHECKING:
    from medrecon.data.errors import InputError
    from medrecon.reconstruction import Reconstruction, reconstruct


def __getattr__(name: str) -> object:
    # torch and monai take seconds to import; the command line's help must not wait for them.
    if name == "InputError":
        from medrecon.data.errors import InputError

        return InputError
    if name in ("Reconstruction", "reconstruct"):
        from medrecon import reconstruction

        return getattr(reconstruction, name)
    raise AttributeError(f"module 'medrecon' has no attribute {name!r}")
