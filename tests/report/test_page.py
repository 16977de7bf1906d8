"""The page is one valid file that loads nothing, fits into its budget, and says what it must."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from medrecon.report.case import Case
from medrecon.report.page import page
from medrecon.report.pictures import planes, scales

from ..make.reports import case, record

VOID = {"br", "img", "input", "link", "meta"}
HOSTILE = "<script>alert(1)</script>\"'&><img src=x onerror=alert(2)> </style></title>"


class Page(HTMLParser):
    """Elements, their attributes, and the text between them."""

    def __init__(self, content):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts, self.faults = [], [], [], []
        self.feed(content.decode())
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), len(self.texts)))
        if len({name for name, _ in attrs}) != len(attrs):
            self.faults.append(f"{tag} has an attribute twice")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes another element")

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def all(self, tag):
        return [attributes for name, attributes, _ in self.elements if name == tag]


def parsed(one: Case):
    return Page(page(one))


def decoded(source):
    return np.array(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


@pytest.mark.parametrize("samples", [1, 4])
def test_the_page_is_well_formed(samples):
    found = parsed(case(samples=samples))
    assert not found.faults and not found.open
    assert found.elements[0][:2] == ("html", {"lang": "en"})
    identifiers = [attributes["id"] for _, attributes, _ in found.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert [name for name, _, _ in found.elements if name == "h1"] == ["h1"]
    levels = [int(name[1]) for name, _, _ in found.elements if re.fullmatch("h[1-6]", name)]
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_links_inside_the_page_lead_somewhere():
    found = parsed(case())
    identifiers = {attributes.get("id") for _, attributes, _ in found.elements}
    inside = [one["href"][1:] for one in found.all("a") if one["href"].startswith("#")]
    assert len(inside) > 10 and set(inside) <= identifiers
    for name in ("for", "aria-labelledby"):
        assert {attributes[name] for _, attributes, _ in found.elements if name in attributes} <= identifiers


def test_nothing_is_loaded_from_elsewhere():
    content = page(case()).decode()
    found = Page(content.encode())
    for tag, attributes, _ in found.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "srcset", "poster", "data", "action", "formaction", "background", "xlink:href"):
                paper = tag == "a" and re.match(
                    r"https://(doi\.org|arxiv\.org|github\.com|openreview\.net|proceedings)", value
                )
                assert value.startswith(("data:image/", "#")) or paper, (tag, name, value[:60])
            assert not name.startswith("on")
    assert not re.search(
        r"@import|url\((?!data:)|https?:", "".join(re.findall(r"<style>(.*?)</style>", content, re.DOTALL))
    )
    assert not found.all("link") and not found.all("iframe") and not found.all("object")


def test_the_policy_allows_the_scripts_of_the_page_alone():
    content = page(case()).decode()
    policy = next(one["content"] for one in Page(content.encode()).all("meta") if "http-equiv" in one)
    allowed = re.search(r"script-src ([^;]*)", policy)[1]
    scripts = re.findall(r"<script>(.*?)</script>", content, re.DOTALL)
    assert scripts
    for script in scripts:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in allowed
    assert "default-src 'none'" in policy and "unsafe-inline" not in allowed and "http" not in policy


def test_names_and_records_cannot_add_markup():
    facts = record(
        input=HOSTILE, warnings=[HOSTILE], maps_source=HOSTILE, noise_source=HOSTILE, device=HOSTILE, sha256={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE, "torch": HOSTILE}, condition=HOSTILE, bundle={"name": HOSTILE, "version": HOSTILE},
        solver={"name": HOSTILE, HOSTILE: HOSTILE},
        uncertainty={"self_test": {"agrees": False, "text": HOSTILE}, "null_energy": 0.5},
    )  # fmt: skip
    clean = parsed(case())
    found = parsed(
        case(
            name=HOSTILE,
            record=facts,
            command=HOSTILE,
            reference_name=HOSTILE,
            labels=[HOSTILE + str(k) for k in range(3)],
        )
    )
    assert not found.faults
    for tag in ("script", "style", "title", "iframe"):
        assert len(found.all(tag)) == len(clean.all(tag)), tag
    assert all("onerror" not in attributes for _, attributes, _ in found.elements)
    assert HOSTILE.split(">")[0] in found.text
    assert {one["src"][:11] for one in found.all("img")} == {"data:image/"}


def test_every_picture_has_a_text_and_a_size():
    pictures = parsed(case()).all("img")
    assert len(pictures) > 20
    assert all(one["alt"] and int(one["width"]) > 0 and int(one["height"]) > 0 for one in pictures)


def test_every_control_has_a_label():
    """Radio buttons are inside their labels; others are named by ``for``."""
    content = page(case()).decode()
    inside = len(re.findall(r"<label><input type=\"radio\"[^>]*><span>.+?</span></label>", content))
    found = Page(content.encode())
    named = {one["for"] for one in found.all("label") if "for" in one}
    others = [one for one in found.all("input") if one["type"] != "radio"]
    assert inside == sum(one["type"] == "radio" for one in found.all("input"))
    assert {one["id"] for one in others} <= named


def test_all_images_have_one_window():
    """The same value has the same grey level in the zero-filled image, the classical one, the mean, the reference, a sample."""
    one = case(shape=(1, 20, 20), noise=0.0)
    high = one.window[1]
    expected = np.rint(255 * np.clip(np.linspace(0, 100, 20) / high, 0, 1))
    pictures = {p.key: p for p in planes(one, scales(one))[0].pictures if p.group in ("compare", "sample")}
    assert set(pictures) == {"zero", "classical", "mean", "reference", "s0", "s1", "s2", "s3"}
    for picture in pictures.values():
        assert np.array_equal(decoded(picture.source)[:, 0, 0], expected)  # without loss: exactly equal
    brighter = case(shape=(1, 20, 20), noise=0.0, reference=3 * one.image)
    assert brighter.window == one.window  # a brighter reference does not change it


def test_the_spread_is_shown_as_transparency_of_the_image():
    spread = np.linspace(0, 10, 20)[None, None, :] * np.ones((1, 20, 1))
    one = case(shape=(1, 20, 20), noise=0.0)
    one = case(shape=(1, 20, 20), noise=0.0, maps={**one.maps, "spread": spread})
    ends = scales(one)
    pictures = {p.key: decoded(p.source) for p in planes(one, ends)[0].pictures}
    faded = pictures["faded"]
    assert np.array_equal(faded[..., 0], pictures["mean"][..., 0])  # the grey values are those of the image
    assert np.array_equal(faded[0, :, 3], 255 - np.rint(255 * np.clip(spread[0, 0] / ends.spread, 0, 1)))
    assert faded[0, 0, 3] == 255 and ends.spread >= 10 and faded[0, -1, 3] < 20


@pytest.mark.parametrize("calibrated", [False, True])
def test_only_calibrated_runs_say_uncertainty(calibrated):
    found = parsed(case(calibrated=calibrated))
    text = re.sub(
        r"\{.*\}", "", found.text.replace('"uncertainty":', "")
    )  # without the record, whose field has this name
    assert ("uncertainty" in text.lower()) == calibrated
    assert ("not calibrated" in text) == (not calibrated)


def test_the_page_names_the_calibration():
    facts = {"source": "cal.json", "images": 41, "factors": {"0.6827": 1.75, "0.9": 3.25}}
    found = parsed(case(calibrated=True, record={"calibration": facts})).text
    assert "times a factor from 41 images with references (cal.json)" in found
    assert "conformal risk control [" in found and "0.6827 1.75, 0.9 3.25 by coverage" in found
    own = parsed(case(calibrated=True)).text
    assert "has not been compared with errors" in own and "cal.json" not in own


def test_the_flagged_fraction_is_that_of_the_record():
    uncertainty = {"null_energy": 0.1, "flagged_fraction": 0.1234}
    assert "12 % of the pixels in which samples can differ" in parsed(case(record={"uncertainty": uncertainty})).text
    made = case(record={"uncertainty": {}})
    assert f"{100 * (made.maps['flags'] > 0).mean():.2g} % of all pixels" in parsed(made).text


def test_that_there_are_no_warnings_is_stated():
    assert "Warnings None." in parsed(case()).text
    found = parsed(case(record={"warnings": ["coil maps are poor", "too smooth"]}))
    assert "Warnings None." not in found.text and "coil maps are poor" in found.text and "too smooth" in found.text


@pytest.mark.parametrize("agrees", [True, False])
def test_a_failed_self_test_stands_among_the_warnings(agrees):
    facts = {"self_test": {"agrees": agrees, "text": "samples do not scatter as the noise does"}}
    content = page(case(record={"warnings": [], "uncertainty": facts})).decode()
    warnings = re.search(r'<section[^>]*id="warnings".*?</section>', content, re.DOTALL)[0]
    assert ("None." in warnings) == agrees
    assert ("scatter" in warnings) != agrees


@pytest.mark.parametrize(("energy", "prominent"), [(0.2, True), (0.0004, False)])
def test_what_was_never_measured_is_the_priors_word(energy, prominent):
    found = parsed(case(record={"uncertainty": {"null_energy": energy}}))
    assert "the data never measured is the prior's word" in found.text
    assert (f"{100 * energy:.3g} % of the energy of this image was not measured" in found.text) == prominent
    assert any(one.get("class") == "note" for one in found.all("p")) == prominent


def test_motion_of_every_shot():
    motion = {
        "shots": 2, "reference_shot": 0, "slices": list(range(3, 13)), "angle_degrees": [[0.0, -1.234]] * 10,
        "shift_pixels": [[[0.0, 0.0], [2.5, -0.75]]] * 10, "shift_mm": None,
    }  # fmt: skip
    found = parsed(case(record={"motion": motion}))
    assert "relative to shot 0" in found.text and "-1.23" in found.text and "shift along y (pixels)" in found.text
    assert "2 more slices are in the sidecar" in found.text and "Rigid in-plane motion of 2 shots" in found.text
    in_mm = parsed(case(record={"motion": motion | {"shift_mm": [[[0.0, 0.0], [5.04, -1.5]]] * 10}}))
    assert "5.04" in in_mm.text and "shift along y (mm)" in in_mm.text
    assert "Motion between shots" not in parsed(case()).text


def test_sections_without_data_say_how_to_add_them():
    bare = case(samples=1, reference=None, zero_filled=None, classical=None, inputs=None, metrics={}, command=None)
    text = parsed(bare).text
    assert text.count("run medrecon report with --scan") == 2 and "--reference" in text
    assert "The options of this run are not recorded" in text
    assert "Spread" not in text and "Uncertainty" not in text


def test_letters_at_the_edges_and_that_there_are_none():
    known = parsed(case(affine=np.diag([-1.0, -1.0, 1.0, 1.0])))
    edges = {one["class"].split()[1] for one in known.all("span") if "edge " in one.get("class", "")}
    assert edges == {"left", "right", "top", "bottom"}
    assert "left edge R, right L, top A, bottom P" in known.all("img")[0]["alt"]
    unknown = parsed(case())
    assert not [one for one in unknown.all("span") if "edge " in one.get("class", "")]
    assert "The position in the patient is unknown" in unknown.text


def test_pixels_that_are_not_square_are_shown_so():
    affine = np.diag([2.0, 1.0, 1.0, 1.0])
    frames = [
        one["style"]
        for one in parsed(case(shape=(1, 40, 32), affine=affine)).all("div")
        if "frame" in one.get("class", "")
    ]
    assert set(frames) == {"aspect-ratio:64 / 40"}


# Size

WORST = [
    # shape, samples, noise, whether images are compressed with loss; noise 1 fills the window, and real noise is below 0.1
    ((1, 256, 256), 8, 1.0, False),
    ((12, 256, 256), 8, 1.0, False),
    ((1, 512, 512), 8, 0.1, False),
    ((1, 512, 512), 8, 1.0, False),
    ((1, 1024, 768), 8, 1.0, True),
    ((169, 238, 176), 1, 1.0, False),  # without the view of the volume, which may take 9 MB more
]


@pytest.mark.parametrize(("shape", "samples", "noise", "lossy"), WORST)
def test_a_page_fits_into_its_budget_even_of_noise(shape, samples, noise, lossy):
    one = case(shape=shape, samples=samples, noise=noise)
    content = page(one)
    assert len(content) <= 3e6
    shown = planes(one, scales(one))
    assert 1 <= len(shown) <= 8
    assert ("compare" in shown[0].lossy) == lossy
    assert ("with loss" in Page(content).text) == (bool(shown[0].lossy) or shape[0] > 1)


def test_small_slices_are_all_shown():
    one = case(shape=(8, 64, 64))
    assert [plane.label for plane in planes(one, scales(one))] == list(one.labels)
