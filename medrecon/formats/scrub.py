"""ISMRMRD headers without personal data: elements that reconstruction needs, and no others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

__all__ = ["parsed", "scrubbed"]


_SPACE = {"matrixSize": dict.fromkeys("xyz", "number"), "fieldOfView_mm": dict.fromkeys("xyz", "number")}


_LIMIT = dict.fromkeys(("minimum", "maximum", "center"), "number")


_FACTOR = dict.fromkeys(("kspace_encoding_step_1", "kspace_encoding_step_2"), "number")


_PARAMETER = {"name": "gradient", "value": "number"}


_KEPT: dict[str, Any] = {
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
"""Elements of an ISMRMRD header that are kept, and what may stand in them. Subject, study, measurement, institution, station,
serial number, user parameters, comments and attributes are not among them."""


_GRADIENT = ("rampUpTime", "rampDownTime", "flatTopTime", "acqDelayTime", "dwellTime", "numSamples", "numberOfNavigators", "etl",
             "echoSpacing")  # fmt: skip
"""Parameters of an EPI readout by siemens_to_ismrmrd."""


_WORDS = {
    "number": r"[-+0-9.eE]{1,40}",
    "kind": r"[A-Za-z][A-Za-z0-9_-]{0,31}",
    "text": r"[^\x00-\x1f<>]{0,64}",
    "gradient": "|".join(_GRADIENT),
}


def _kept(element: ElementTree.Element, rule: Mapping[str, Any]) -> None:
    """Remove from an element what ``rule`` does not list."""
    element.attrib.clear()
    for child in list(element):
        inner = rule.get(child.tag.rpartition("}")[2]) if isinstance(child.tag, str) else None
        if isinstance(inner, str):
            child.attrib.clear()
            if len(child) or not re.fullmatch(_WORDS[inner], (child.text or "").strip()):
                inner = None
        elif inner is not None:
            _kept(child, inner)
            child.text = None
            if inner is _PARAMETER and len(child) != 2:  # of a name that is not known
                inner = None
        if inner is None:
            element.remove(child)
        else:
            child.tail = None


def parsed(header: bytes) -> ElementTree.Element:
    """An XML header without a document type, whose entities could name files or unpack without end.

    Raises:
        ElementTree.ParseError: if it is no XML.
        ValueError: for a document type, or a header of more than 16 MiB.
    """
    if len(header) > 2**24:
        raise ValueError("an XML header of more than 16 MiB")
    parser = ElementTree.XMLParser(target=_WithoutDoctype())
    parser.feed(header)
    return parser.close()


class _WithoutDoctype(ElementTree.TreeBuilder):
    """A tree of XML that declares no entities."""

    def doctype(self, *_: object) -> None:
        """Refuse it."""
        raise ValueError("an XML header with a document type")


def scrubbed(header: bytes) -> bytes:
    """An XML header with what reconstruction needs (:data:`_KEPT`), and nothing else.

    Raises:
        ElementTree.ParseError: if it is no XML.
        ValueError: if it has a document type.
    """
    root = parsed(header)
    _kept(root, _KEPT)
    root.text = None
    return ElementTree.tostring(root)
