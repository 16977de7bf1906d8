"""ISMRMRD files, written with the format's own library."""

import ismrmrd
import numpy as np
from ismrmrd import xsd

COILS = 3
AXES = np.eye(3)


def header(shape, field, recon=None, centres=None, kind="cartesian"):
    """XML of one encoding: matrix and field of view in mm along readout and the two phase encodings."""

    def space(shape, field):
        return xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(**dict(zip("xyz", shape, strict=True))),
            fieldOfView_mm=xsd.fieldOfViewMm(**dict(zip("xyz", map(float, field), strict=True))),
        )

    def limit(n, centre):
        return xsd.limitType(minimum=0, maximum=n - 1, center=n // 2 if centre is None else centre)

    one, two = centres or (None, None)
    encoding = xsd.encodingType(
        encodedSpace=space(shape, field),
        reconSpace=space(*(recon or (shape, field))),
        encodingLimits=xsd.encodingLimitsType(
            kspace_encoding_step_1=limit(shape[1], one), kspace_encoding_step_2=limit(shape[2], two)
        ),
        trajectory=xsd.trajectoryType(kind),
    )
    subject = xsd.subjectInformationType(patientName="Jane Doe", patientID="123")
    system = xsd.acquisitionSystemInformationType(
        systemVendor="maker", institutionName="Ward 7", systemFieldStrength_T=3.0
    )
    conditions = xsd.experimentalConditionsType(H1resonanceFrequency_Hz=128000000)
    return xsd.ismrmrdHeader(
        encoding=[encoding],
        subjectInformation=subject,
        acquisitionSystemInformation=system,
        experimentalConditions=conditions,
    )


def line(data, flags=(), centre=None, dirs=AXES, position=(0, 0, 0), dwell=5.0, **counters):
    """One acquisition ``(coils, samples)``; ``dirs`` has readout, phase and slice in its rows, LPS."""
    one = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data, dtype=np.complex64))
    one.center_sample = data.shape[1] // 2 if centre is None else centre
    one.sample_time_us = dwell
    one.read_dir[:], one.phase_dir[:], one.slice_dir[:], one.position[:] = *dirs, position
    for name, value in counters.items():
        setattr(one.idx, name, value)
    for flag in flags:
        one.set_flag(flag)
    return one


def write(path, xml, lines):
    """A file by the library."""
    with ismrmrd.Dataset(str(path), "dataset", create_if_needed=True) as dataset:
        dataset.write_xml_header(xsd.ToXML(xml) if hasattr(xsd, "ToXML") else xml.toXML())
        for one in lines:
            dataset.append_acquisition(one)
    return path


def noise(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def rotation(seed=0):
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))[0]
    return q * np.sign(np.linalg.det(q))
