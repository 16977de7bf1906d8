"""MONAI transforms: pick keys, call a function of ``medrecon.data``, put the result back."""

from medrecon.transforms.kspace import (
    EstimateSensitivityMapsd,
    LoadKSpaced,
    MagnitudeMeand,
    ReferenceImaged,
    SaveReconstructiond,
    UndersampleKSpaced,
)
from medrecon.transforms.training import AddSmoothPhase, AddSmoothPhased

__all__ = [
    "AddSmoothPhase",
    "AddSmoothPhased",
    "EstimateSensitivityMapsd",
    "LoadKSpaced",
    "MagnitudeMeand",
    "ReferenceImaged",
    "SaveReconstructiond",
    "UndersampleKSpaced",
]
