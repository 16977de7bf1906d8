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
from medrecon.transforms.ct import LoadSinogram, LoadSinogramd
from medrecon.transforms.kspace import (
    EstimateSensitivityMaps,
    EstimateSensitivityMapsd,
    LoadKSpace,
    LoadKSpaced,
    MagnitudeMeand,
    ReferenceImaged,
    UndersampleKSpace,
    UndersampleKSpaced,
)
from medrecon.transforms.save import SaveHounsfieldd, SaveReconstructiond
from medrecon.transforms.simulate import (
    AddSmoothPhase,
    AddSmoothPhased,
    CropKSpace,
    CropKSpaced,
    NormalizeKSpace,
    NormalizeKSpaced,
    SimulateKSpace,
    SimulateKSpaced,
    SimulateSinogram,
    SimulateSinogramd,
)
from medrecon.transforms.volume import ChannelFirst, ChannelFirstd, LoadVolume, LoadVolumed

__all__ = [
    "AddSmoothPhase",
    "AddSmoothPhased",
    "ChannelFirst",
    "ChannelFirstd",
    "CombineCoils",
    "CombineCoilsd",
    "CompressCoils",
    "CompressCoilsd",
    "CropKSpace",
    "CropKSpaced",
    "EstimateSensitivityMaps",
    "EstimateSensitivityMapsd",
    "LoadKSpace",
    "LoadKSpaced",
    "LoadSinogram",
    "LoadSinogramd",
    "LoadVolume",
    "LoadVolumed",
    "MagnitudeMeand",
    "NormalizeKSpace",
    "NormalizeKSpaced",
    "PrewhitenCoils",
    "PrewhitenCoilsd",
    "ReferenceImaged",
    "RemoveOversampling",
    "RemoveOversamplingd",
    "SaveHounsfieldd",
    "SaveReconstructiond",
    "SimulateKSpace",
    "SimulateKSpaced",
    "SimulateSinogram",
    "SimulateSinogramd",
    "UndersampleKSpace",
    "UndersampleKSpaced",
]
