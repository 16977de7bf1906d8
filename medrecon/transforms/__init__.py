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
from medrecon.transforms.simulate import (
    AddSmoothPhase,
    AddSmoothPhased,
    CropKSpace,
    CropKSpaced,
    NormalizeKSpaced,
    SimulateKSpaced,
    SimulateSinogramd,
)

__all__ = [
    "AddSmoothPhase",
    "AddSmoothPhased",
    "CombineCoils",
    "CombineCoilsd",
    "CompressCoils",
    "CompressCoilsd",
    "CropKSpace",
    "CropKSpaced",
    "EstimateSensitivityMapsd",
    "LoadKSpaced",
    "LoadSinogramd",
    "MagnitudeMeand",
    "NormalizeKSpaced",
    "PrewhitenCoils",
    "PrewhitenCoilsd",
    "ReferenceImaged",
    "RemoveOversampling",
    "RemoveOversamplingd",
    "SaveHounsfieldd",
    "SaveReconstructiond",
    "SimulateKSpaced",
    "SimulateSinogramd",
    "UndersampleKSpaced",
]
