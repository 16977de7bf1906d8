"""NIfTI files."""

import nibabel as nib


def save(path, data, affine, sform=1, qform=1, unit="mm", scale=None):
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units(unit)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    if scale is not None:
        image.header.set_slope_inter(*scale)
    nib.save(image, path)
    return path
