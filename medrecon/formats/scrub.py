"""Removal of personal data from ISMRMRD headers: only elements that reconstruction needs are kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

__all__ = ["parse_header", "scrub_header"]


_SPACE = {"matrixSize": dict.fromkeys("xyz", "number"), "fieldOfView_mm": dict.fromkeys("xyz", "number")}


_LIMIT = dict.fromkeys(("minimum", "maximum", "center"), "number")


_FACTOR = dict.fromkeys(("kspace_encoding_step_1", "kspace_encoding_step_2"), "number")


_PARAMETER = {"name": "gradient", "value": "number"}


_ALLOWED: dict[str, Any] = {
    "version": "number",
    "experimentalConditions": {"H1resonanceFrequency_Hz": "number"},
    "acquisitionSystemInformation": {
        "systemVendor": "text", "systemModel": "text", "systemFieldStrength_T": "number",
        "relativeReceiverNoiseBandwidth": "number", "receiverChannels": "number",
        "coilLabel": {"coilNumber": "number", "coilName": "text"},
    },
    "encoding": {
        "encodedSpace": _SPACE, "reconSpace": _SPACE,
        "encodingLimits": dict.fromkeys(
            ("kspace_encoding_step_0", "kspace_encoding_step_1", "kspace_encoding_step_2", "average", "slice", "contrast",
             "phase", "repetition", "set", "segment", *(f"user_{k}" for k in range(8))),
            _LIMIT,
        ),
        "trajectory": "kind",
        "trajectoryDescription": {
            "identifier": "text", "userParameterLong": _PARAMETER, "userParameterDouble": _PARAMETER,
        },
        "parallelImaging": {
            "accelerationFactor": _FACTOR, "calibrationMode": "kind", "interleavingDimension": "kind",
            "multiband": {"spacing": {"dZ": "number"}, "deltaKz": "number", "multiband_factor": "number",
                          "calibration": "kind", "calibration_encoding": "number"},
        },
        "echoTrainLength": "number",
    },
    "sequenceParameters": dict.fromkeys(("TR", "TE", "TI", "flipAngle_deg", "echo_spacing"), "number"),
}  # fmt: skip
"""Elements of an ISMRMRD header that are kept, and the kind of content allowed in them. Subject, study, measurement, institution,
station, serial number, user parameters, comments and attributes are removed."""


_GRADIENT = ("rampUpTime", "rampDownTime", "flatTopTime", "acqDelayTime", "dwellTime", "numSamples", "numberOfNavigators", "etl",
             "echoSpacing")  # fmt: skip
"""Parameters of an EPI readout written by siemens_to_ismrmrd."""


_WORDS = {
    "number": r"[-+0-9.eE]{1,40}",
    "kind": r"[A-Za-z][A-Za-z0-9_-]{0,31}",
    "text": r"[^\x00-\x1f<>]{0,64}",
    "gradient": "|".join(_GRADIENT),
}


def _remove_unlisted(element: ElementTree.Element, rule: Mapping[str, Any]) -> None:
    """Remove everything from an element that ``rule`` does not list."""
    element.attrib.clear()
    for child in list(element):
        inner = rule.get(child.tag.rpartition("}")[2]) if isinstance(child.tag, str) else None
        if isinstance(inner, str):
            child.attrib.clear()
            if len(child) or not re.fullmatch(_WORDS[inner], (child.text or "").strip()):
                inner = None
        elif inner is not None:
            _remove_unlisted(child, inner)
            child.text = None
            if inner is _PARAMETER and len(child) != 2:  # a parameter with an unknown name
                inner = None
        if inner is None:
            element.remove(child)
        else:
            child.tail = None


def parse_header(header: bytes) -> ElementTree.Element:
    """Parse an XML header; a document type is refused, since its entities could refer to files or expand without limit.

    Raises:
        ElementTree.ParseError: if it is not XML.
        ValueError: for a document type, or a header of more than 16 MiB.
    """
    if len(header) > 2**24:
        raise ValueError("an XML header of more than 16 MiB")
    parser = ElementTree.XMLParser(target=_WithoutDoctype())
    parser.feed(header)
    return parser.close()


class _WithoutDoctype(ElementTree.TreeBuilder):
    """XML tree builder that refuses document types."""

    def doctype(self, *_: object) -> None:
        """Refuse a document type."""
        raise ValueError("an XML header with a document type")


def scrub_header(header: bytes) -> bytes:
    """Reduce an XML header to the elements that reconstruction needs (:data:`_ALLOWED`).

    Raises:
        ElementTree.ParseError: if it is not XML.
        ValueError: if it has a document type.
    """
    root = parse_header(header)
    _remove_unlisted(root, _ALLOWED)
    root.text = None
    return ElementTree.tostring(root)
