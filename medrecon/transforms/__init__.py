"""MONAI transforms: pick keys, call a function of ``medrecon.data``, put the result back."""

from medrecon.transforms.coils import (
    CombineCoils,
    CombineCoilsd,
    CompressCoils,
    CompressCoilsd,
    PrewhitenCoils,
    PrewhitenCoilsd,
    RemoveOversampling,
    RemoveOversamplingd,
)
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
    "CombineCoils",
    "CombineCoilsd",
    "CompressCoils",
    "CompressCoilsd",
    "EstimateSensitivityMapsd",
    "LoadKSpaced",
    "LoadSinogramd",
    "MagnitudeMeand",
    "PrewhitenCoils",
    "PrewhitenCoilsd",
    "ReferenceImaged",
    "RemoveOversampling",
    "RemoveOversamplingd",
    "SaveHounsfieldd",
    "SaveReconstructiond",
    "UndersampleKSpaced",
]
