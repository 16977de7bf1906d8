"""MONAI transforms: pick keys, call a function of ``medrecon.data``, put the result back."""

from medrecon.transforms.ct import LoadSinogramd
from medrecon.transforms.kspace import (
    EstimateSensitivityMapsd,
    LoadKSpaced,
    MagnitudeMeand,
    ReferenceImaged,
    UndersampleKSpaced,
)
from medrecon.transforms.save import SaveHounsfieldd, SaveReconstructiond

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
