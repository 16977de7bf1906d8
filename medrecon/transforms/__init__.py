"""MONAI transforms: pick keys, call a function of ``medrecon.data``, put the result back."""

from medrecon.transforms.ct import LoadSinogramd, SaveHounsfieldd
from medrecon.transforms.kspace import (
    EstimateSensitivityMapsd,
    LoadKSpaced,
    MagnitudeMeand,
    ReferenceImaged,
    SaveReconstructiond,
    UndersampleKSpaced,
)

__all__ = [
    "EstimateSensitivityMapsd",
    "LoadKSpaced",
    "LoadSinogramd",
    "MagnitudeMeand",
    "ReferenceImaged",
    "SaveHounsfieldd",
    "SaveReconstructiond",
    "UndersampleKSpaced",
]
