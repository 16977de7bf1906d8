"""Pages in a headless browser: they load nothing, work without scripts and by keyboard, and show the patient's sides.

Screenshots are written to the folder MEDRECON_SCREENSHOTS, if it is given.
"""

import io
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from PIL import Image

from medrecon.report.index import write_index
from medrecon.report.page import page

from ..make.cases import case_of_dicom, ct_case, slice_case, volume_case, write_many

pytestmark = pytest.mark.browser
KINDS = ("slices", "ct", "volume", "index")
MEGABYTES = {"slices": 3, "ct": 3, "volume": 12, "index": 3}
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """A page of each kind."""
    folder = tmp_path_factory.mktemp("many")
    write_many(folder, 12)
    index = write_index(folder).read_bytes()
    return {"slices": page(slice_case()), "ct": page(ct_case()), "volume": page(volume_case()), "index": index}


def pixels(shot):
    """A screenshot, ``(y, x, 3)`` int."""
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def wait_for_view(view):
    """Scroll to the volume, and wait until it is drawn."""
    view.evaluate("document.getElementById('volume-section').scrollIntoView({behavior: 'instant'})")
    view.wait_for_selector("#volume-view[data-ready]", timeout=60_000)


def choose(view, identifier):
    """Press a radio button by its keyboard-accessible element."""
    view.locator(f"#{identifier}").check(force=True)


# All kinds of pages


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_complete_without_scripts(chromium, opened, contents, kind):
    found = opened(chromium, contents[kind], java_script_enabled=False)
    images = found.page.evaluate("[...document.images].filter(i => i.loading !== 'lazy').map(i => i.naturalWidth)")
    assert (images or kind == "index") and all(images)
    text = found.page.inner_text("body")
    assert "alert(1)" in text  # hostile names are text
    assert not found.page.locator(".has-script").count()
    if kind == "volume":
        assert found.page.locator("#volume-static img").is_visible()
        assert not found.page.locator("#volume-view").is_visible()
    if kind == "index":
        assert found.page.locator("tbody tr").count() == 12
        assert not found.page.locator("#filters").is_visible()
    found.check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_loads_nothing_and_fits_screens_phones_and_paper(chromium, opened, contents, kind, picture_folder):
    assert len(contents[kind]) < MEGABYTES[kind] * 1_000_000
    found = opened(chromium, contents[kind], color_scheme="light")
    view = found.page
    if kind == "volume":
        wait_for_view(view)

    def background(name):
        return pixels(view.screenshot(full_page=True, path=picture_folder / f"{kind}-{name}.png"))[5, 5].mean()

    assert background("light") > 240
    view.emulate_media(color_scheme="dark")
    assert background("dark") < 40
    view.set_viewport_size(PHONE)
    view.wait_for_timeout(200)
    background("phone")
    assert view.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    for identifier in ("view-slider", "view-flicker", "zoom-4", "samples-flicker"):
        if view.locator(f"#{identifier}").count():
            choose(view, identifier)
            assert view.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    found.check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_prints(chromium, opened, contents, kind, picture_folder):
    found = opened(chromium, contents[kind], color_scheme="dark")
    if kind == "volume":
        wait_for_view(found.page)
        found.page.emulate_media(media="print")
        assert found.page.locator("#volume-static img").is_visible()
        assert not found.page.locator("#volume-view").is_visible()
    path = picture_folder / f"{kind}.pdf"
    found.page.pdf(path=path, format="A4", print_background=False)
    if shutil.which("pdftoppm") is None:
        pytest.skip("no pdftoppm; install Debian's package poppler-utils to see the printed pages")
    subprocess.run(["pdftoppm", "-r", "60", "-png", path, picture_folder / f"{kind}-print"], check=True)
    sheets = sorted(picture_folder.glob(f"{kind}-print*.png"))
    first = np.asarray(Image.open(sheets[0]).convert("L"))
    assert first[2, 2] > 240  # white paper, also for a dark screen
    assert (first < 128).any()


# A page of slices


def test_the_slider_shows_the_first_image_left_of_the_cut_and_the_second_right_of_it(chromium, opened, contents):
    found = opened(chromium, contents["slices"])
    view = found.page
    choose(view, "view-slider")
    frame = view.locator(".compare .frame").locator("visible=true").first

    def at(percent):
        view.locator("#position").evaluate(
            "(one, value) => { one.value = value; one.dispatchEvent(new Event('input')) }", percent
        )
        return pixels(frame.screenshot())

    second, first, half = at(0), at(100), at(50)
    width = half.shape[1]
    near = 4  # the line at the cut
    assert np.abs(first - second).mean() > 1  # they differ
    edges = slice(near, width // 2 - near), slice(width // 2 + near, width - near)
    assert np.abs(half - first)[:, edges[0]].max() <= 2
    assert np.abs(half - second)[:, edges[1]].max() <= 2
    found.check()


def test_the_slider_is_reached_and_moved_by_keyboard(chromium, opened, contents):
    view = opened(chromium, contents["slices"]).page
    view.focus("#view-grid")
    view.keyboard.press("ArrowRight")
    assert view.is_checked("#view-slider")
    reached = []
    for _ in range(12):
        view.keyboard.press("Tab")
        reached.append(view.evaluate("document.activeElement.id"))
        if reached[-1] == "position":
            break
    assert reached[-1] == "position", reached
    before = int(view.input_value("#position"))
    view.keyboard.press("ArrowRight")
    assert int(view.input_value("#position")) == before + 1
    assert view.evaluate("getComputedStyle(document.body).getPropertyValue('--position')") == f"{before + 1}%"


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_flicker_obeys_reduced_motion(chromium, opened, contents, motion):
    view = opened(chromium, contents["slices"], reduced_motion=motion).page
    for identifier in ("view-flicker", "samples-flicker"):
        choose(view, identifier)
        running = view.evaluate("document.getAnimations().filter(one => one.playState === 'running').length")
        assert (running > 0) == (motion == "no-preference")


# The overview


def test_the_overview_sorts_and_filters_by_keyboard(chromium, opened, contents):
    found = opened(chromium, contents["index"])
    view = found.page

    def column(key):
        place = view.evaluate(
            "key => [...document.querySelectorAll('thead th')].findIndex(h => h.dataset.key === key)", key
        )
        return view.evaluate(
            "k => [...document.querySelectorAll('tbody tr:not([hidden])')].map(row => row.cells[k].dataset.value)",
            place,
        )

    view.focus("th[data-key=residual] button")
    for down in (False, True):
        view.keyboard.press("Enter")
        values = [float(one) for one in column("residual") if one]
        assert values == sorted(values, reverse=down) and len(values) == 10
        assert column("residual")[-2:] == ["", ""]  # what is not recorded comes last
    assert view.get_attribute("th[data-key=residual]", "aria-sort") == "descending"
    view.focus("#filters summary")
    view.keyboard.press("Enter")
    view.fill("#least-acceleration", "4")
    view.fill("#most-acceleration", "4")
    assert column("acceleration") == ["4"] * 4
    view.fill("#least-warnings", "1")
    assert column("warnings") == ["1"] * 4
    view.fill("#filter-name", "0004")
    assert view.inner_text("#shown") == "1 of 12 shown"
    view.click("#clear")
    assert view.inner_text("#shown") == "12 of 12 shown"
    view.select_option("#filter-solver", "cg-sense")
    assert len(column("flagged")) == 4
    found.check()


# The view of a volume


def turned(x, z):
    """A rotation about the first axis, then about the third, degrees."""
    x, z = np.deg2rad([x, z])
    first = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    third = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return third @ first


def affine_of(axes):
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = axes, [-31, 12, 55]
    return made


AFFINES = {
    "right-handed": affine_of(np.diag([2.0, 1.5, 2.5])),
    "left-handed": affine_of(np.diag([-2.0, 1.5, 2.5])),
    "as in DICOM": affine_of(np.diag([-2.0, -1.5, 2.5])),
    "oblique": affine_of(turned(18, -24) @ np.diag([-2.0, -1.5, 2.5])),
    "sagittal": affine_of(np.array([[0, 0, 2.5], [-2.0, 0, 0], [0, -1.5, 0]])),
}


def dicom_centres(series):
    """Centres of the bright voxels and of all voxels, by the attributes of the DICOM files alone; mm in LPS."""
    bright, every = [], []
    headers = [pydicom.dcmread(path) for path in sorted(series.glob("*.dcm"))]
    top = max(header.pixel_array.max() for header in headers)
    for header in headers:
        row, column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        down, right = map(float, header.PixelSpacing)
        j, i = np.indices(header.pixel_array.shape)
        place = np.array(header.ImagePositionPatient, float) + i[..., None] * right * row + j[..., None] * down * column
        bright.append(place[header.pixel_array > top / 2])
        every.append(place.reshape(-1, 3))
    return np.concatenate(bright).mean(axis=0), np.concatenate(every).mean(axis=0)


class Shown:
    """Where the block and the letters are in a screenshot of one slice."""

    def __init__(self, canvas):
        shot = pixels(canvas.screenshot())[4:-4]  # without its round corners
        grey = np.ptp(shot, axis=-1) < 12
        level = shot.mean(axis=-1)
        rows, columns = np.nonzero(grey & (level > 30))
        self.top, self.bottom, self.left, self.right = rows.min(), rows.max(), columns.min(), columns.max()
        y, x = np.nonzero(grey & (level > 180))
        assert len(x) > 50, "the block is not in this slice"
        self.block = x.mean(), y.mean()
        red, green, blue = shot[..., 0], shot[..., 1], shot[..., 2]
        letters = (red > 180) & (green > 150) & (blue < 150)
        self.ink = letters[:, :40].sum(), letters[:, -40:].sum()

    @property
    def is_right(self):
        return self.block[0] > (self.left + self.right) / 2

    @property
    def is_up(self):
        return self.block[1] < (self.top + self.bottom) / 2


@pytest.mark.parametrize("name", AFFINES)
def test_left_and_right_are_those_of_the_dicom(chromium, opened, tmp_path, name, picture_folder):
    affine = AFFINES[name]
    series, case = case_of_dicom(tmp_path, affine)
    block, centre = dicom_centres(series)
    assert (np.sign(block - centre) == [1, -1, 1]).all()  # left, anterior, superior in DICOM's LPS
    found = opened(chromium, page(case))
    view = found.page
    wait_for_view(view)
    canvas = view.locator("#vv-canvas")

    def look(kind):
        choose(view, f"vv-type-{kind}")
        return Shown(canvas)

    sizes = np.linalg.norm(affine[:3, :3], axis=0) * case.image.shape[::-1]
    up = view.locator("#vv-z")
    least = min(sizes) / 2 * 0.42  # middle of the block above the centre, mm
    height = sizes[np.argmax(np.abs(affine[2, :3] / np.linalg.norm(affine[:3, :3], axis=0)))]
    slices = int(up.get_attribute("max")) + 1
    up.evaluate(
        "(one, value) => { one.value = value; one.dispatchEvent(new Event('input')) }",
        round((0.5 + least / height) * slices - 0.5),
    )
    axial = look("axial")
    canvas.screenshot(path=picture_folder / f"sides-{name.replace(' ', '-')}.png")
    assert axial.is_right and axial.is_up  # radiological: the patient's left is on the right; anterior is up
    assert axial.ink[0] > axial.ink[1]  # R, on the left, has more ink than L
    # Where the block is shown, the view reports the position that the DICOM files give.
    canvas.click(position={"x": axial.block[0], "y": axial.block[1]})
    place = np.array([float(one) for one in view.get_attribute("#volume-view", "data-mm").split()])
    assert np.abs(place - block * [-1, -1, 1]).max() < 0.12 * min(sizes)  # within the block, whose half is 0.14 wide
    text = view.inner_text("#vv-where")
    for k, (low, high) in enumerate((("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))):
        assert (low if place[k] < 0 else high) in text
    assert "value 100" in text or "value 99" in text
    coronal, sagittal = look("coronal"), look("sagittal")
    assert coronal.is_right and coronal.is_up and coronal.ink[0] > coronal.ink[1]
    assert sagittal.is_right and sagittal.is_up  # anterior is on the right
    view.uncheck("#vv-radiological")
    axial = look("axial")
    assert not axial.is_right and axial.is_up and axial.ink[0] < axial.ink[1]
    assert view.inner_text("#vv-side") == "left"
    found.check()


def test_the_view_of_a_volume_by_keyboard(chromium, opened, contents):
    found = opened(chromium, contents["volume"])
    view = found.page
    wait_for_view(view)
    assert not view.locator("#volume-static").is_visible()
    view.focus("#vv-canvas")
    before = [int(view.input_value(f"#vv-{axis}")) for axis in "xyz"]
    for key in ("ArrowRight", "ArrowUp", "PageUp", "v", "c", "?"):
        view.keyboard.press(key)
    after = [int(view.input_value(f"#vv-{axis}")) for axis in "xyz"]
    assert np.subtract(after, before).tolist() == [-1, 1, 1]  # to the right of the screen is to the patient's left
    reached = set()
    for _ in range(16):
        view.keyboard.press("Tab")
        reached.add(view.evaluate("document.activeElement.id"))
    assert {
        "vv-type-all",
        "vv-overlay-none",
        "vv-opacity",
        "vv-radiological",
        "vv-x",
        "vv-low",
        "vv-high",
        "vv-reset",
    } <= reached
    # The window: half of the range makes a voxel of 20 brighter.
    choose(view, "vv-type-axial")

    def level():
        shot = pixels(view.locator("#vv-canvas").screenshot()).max(axis=-1)
        return np.median(shot[shot > 20])

    dark = level()
    view.focus("#vv-high")
    for _ in range(7):
        view.keyboard.press("PageDown")
    assert level() > 1.5 * dark
    view.locator("#vv-stills").click()
    assert view.locator("#volume-static").is_visible()
    found.check()


def test_overlays_of_a_volume(chromium, opened, contents):
    found = opened(chromium, contents["volume"])
    view = found.page
    wait_for_view(view)

    def coloured():
        shot = pixels(view.locator("#vv-canvas").screenshot())
        return (shot[..., 0] - shot[..., 2] > 40).mean(), (shot[..., 0] - shot[..., 1] > 40).mean()

    plain = coloured()
    choose(view, "vv-overlay-vv-spread")
    view.wait_for_selector("#volume-view[data-overlay=vv-spread]")
    assert coloured()[0] > plain[0] + 0.1  # orange
    assert "spread" in view.inner_text("#vv-where")
    assert view.locator("#vv-spread-legend").is_visible()
    choose(view, "vv-overlay-vv-flags")
    view.wait_for_selector("#volume-view[data-overlay=vv-flags]")
    assert coloured()[1] > plain[1] + 0.05  # purple
    choose(view, "vv-overlay-none")
    view.wait_for_selector("#volume-view[data-overlay=none]")
    assert np.allclose(coloured(), plain, atol=0.01)
    found.check()


def test_thumbnails_stay_without_webgl(without_webgl, opened, contents):
    found = opened(without_webgl, contents["volume"])
    found.page.evaluate("document.getElementById('volume-section').scrollIntoView()")
    found.page.wait_for_timeout(500)
    assert found.page.locator("#volume-static img").is_visible()
    assert not found.page.locator("#volume-view").is_visible()
    found.check()
