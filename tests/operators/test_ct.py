"""Projectors against line integrals known in closed form, and against scikit-image."""

import math

import numpy as np
import pytest
import torch

from medrecon.operators import ConeBeam, Detector, FanBeam, Panel, ParallelBeam
from medrecon.operators.fbp import FILTERS, ramp_filter, view_arcs

from ..make.images import disc

DOUBLE = torch.float64


@pytest.mark.parametrize(("shape", "detector_spacing", "offset"), [((128, 128), 0.7, 0.0), ((101, 128), 0.5, 3.1)])
def test_a_disc_has_the_chords_of_a_circle(shape, detector_spacing, offset):
    spacing, radius, centre = 0.7, 25.0, (6.0, -4.5)
    angles = torch.linspace(0, math.pi, 37)[:-1]
    A = ParallelBeam(angles, shape, Detector(300, detector_spacing, offset), spacing=spacing)
    y = A(disc(shape, radius, centre, spacing))[0, 0]
    s = (torch.arange(300) - 149.5) * detector_spacing - offset
    along = s - (centre[0] * angles.cos() + centre[1] * angles.sin())[:, None]
    exact = 2 * (radius**2 - along**2).clamp(min=0).sqrt()
    # 1 %: what pixels of 1/36 of the radius leave at the rim.
    assert float((y - exact).norm() / exact.norm()) < 0.01


def test_orientation_is_scikit_images():
    transform = pytest.importorskip("skimage.transform")
    image = disc((64, 64), 9.0, (5.0, 11.0), 1.0) + 0.5 * disc((64, 64), 4.0, (-9.0, 2.0), 1.0)
    degrees = np.arange(0, 180, 7.5)
    theirs = transform.radon(image[0, 0].numpy(), degrees)  # rotates about pixel n // 2, half a pixel off our centre
    A = ParallelBeam(torch.from_numpy(np.deg2rad(degrees)), (64, 64), Detector(64))
    angles = np.deg2rad(degrees)
    ours = A(image)[0, 0].numpy()
    for view, angle in enumerate(angles):
        shift = (math.cos(angle) - math.sin(angle) - 1) / 2
        moved = np.interp(np.arange(64) + shift, np.arange(64), ours[view])
        assert np.linalg.norm(moved - theirs[:, view]) < 0.05 * np.linalg.norm(theirs[:, view])


ELLIPSES = [(0.0, 0.0, 45.0, 38.0, 0.3, 1.0), (12.0, -8.0, 9.0, 14.0, 0.8, 0.4), (-15.0, 10.0, 7.0, 4.0, -0.5, -0.6)]
"""Centre x and y, half axes, tilt (rad) and value of each."""


def ellipses(shape, spacing, finer=8):
    """Pixels by area."""
    y, x = (((np.arange(n * finer) - (n * finer - 1) / 2) * spacing / finer) for n in shape)
    image = np.zeros((len(y), len(x)), np.float32)
    for cx, cy, a, b, tilt, value in ELLIPSES:
        dx, dy = x[None] - cx, -y[:, None] - cy
        along, across = dx * math.cos(tilt) + dy * math.sin(tilt), dy * math.cos(tilt) - dx * math.sin(tilt)
        image += value * ((along / a) ** 2 + (across / b) ** 2 <= 1)
    return torch.from_numpy(image.reshape(shape[0], finer, shape[1], finer).mean((1, 3)))[None, None]


def chords(normals, s):
    """Exact line integrals through the ellipses of rays at distance ``s`` along their normals (Kak and Slaney, eq. 3.7)."""
    out = torch.zeros(torch.broadcast_shapes(normals.shape, s.shape), dtype=torch.float64)
    for cx, cy, a, b, tilt, value in ELLIPSES:
        angle = normals - tilt
        width = (a * angle.cos()) ** 2 + (b * angle.sin()) ** 2
        t = s - cx * normals.cos() - cy * normals.sin()
        out += value * 2 * a * b * (width - t**2).clamp(min=0).sqrt() / width
    return out


def test_ellipses_have_their_chords():
    angles = torch.linspace(0, 2 * math.pi, 25, dtype=torch.float64)[:-1]
    y = ParallelBeam(angles, (256, 256), spacing=0.4)(ellipses((256, 256), 0.4))[0, 0]
    s = (torch.arange(y.shape[1]).double() - (y.shape[1] - 1) / 2) * 0.4
    exact = chords(angles[:, None], s)
    assert float((y - exact).norm() / exact.norm()) < 0.01


@pytest.mark.parametrize("offset", [0.0, 2.5])
def test_fan_beam_rays_are_where_they_should_be(offset):
    angles = torch.linspace(0, 2 * math.pi, 25, dtype=torch.float64)[:-1]
    A = FanBeam(angles, (256, 256), 120.0, 200.0, Detector(offset=offset), spacing=0.4)
    u = ((torch.arange(A.detectors).double() - (A.detectors - 1) / 2) * A.detector_spacing - offset) / A.magnification
    # The ray from the source at R (sin, -cos) through u (cos, sin).
    gamma = torch.atan2(u, torch.tensor(120.0))
    exact = chords(angles[:, None] - gamma, 120.0 * gamma.sin())
    y = A(ellipses((256, 256), 0.4))[0, 0]
    assert float((y - exact).norm() / exact.norm()) < 0.01


def test_a_source_far_away_makes_parallel_rays():
    angles = torch.linspace(0, 5.0, 17, dtype=torch.float64)
    x = ellipses((64, 64), 1.6, 2).double()
    far = FanBeam(angles, (64, 64), 1e7, 1e7, Detector(80), 1.6, dtype=torch.float64)(x)
    assert torch.allclose(far, ParallelBeam(angles, (64, 64), Detector(80), 1.6, dtype=torch.float64)(x), atol=1e-3)


def test_kept_and_made_anew_are_the_same():
    angles = torch.linspace(0, 3.0, 11, dtype=torch.float64)
    kept, anew = (ParallelBeam(angles, (24, 31), dtype=torch.float64, keep=keep) for keep in (True, False))
    x = torch.randn(2, 3, 24, 31, dtype=torch.float64)
    y = torch.randn_like(kept(x))
    assert torch.allclose(kept(x), anew(x), atol=1e-12)
    assert torch.allclose(kept.adjoint(y), anew.adjoint(y), atol=1e-12)


HALF_STEP = torch.pi / 24  # keeps views off 45 degrees, where rows and columns would do equally well
TURNS = {
    "half, even": (torch.arange(12).double() * torch.pi / 12 + HALF_STEP, 3, 6),
    "half, odd": (torch.arange(7) * torch.pi / 7, 4, 7),
    "whole": (torch.arange(24).double() * torch.pi / 12 + HALF_STEP, 3, 6),
    "whole, odd, single precision": (torch.arange(9) * 2 * torch.pi / 9, 5, 9),
    "golden angle": (torch.arange(9) * 1.9416, 9, 9),
    "twice and over": (
        torch.tensor([0.3, 0.3 + torch.pi, 0.3 - 4 * torch.pi, torch.pi - 0.3], dtype=torch.float64),
        1,
        2,
    ),
    "tiny": (torch.tensor([0.0, torch.pi / 2 - 1e-12, torch.pi * 2 - 1e-12, -1e-12], dtype=torch.float64), 1, 1),
}
"""Angles; how many sets of rays they need with all symmetries, and with turns alone."""


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("kind", ["parallel", "parallel, not square", "fan", "fan, not square", "cone"])
@pytest.mark.parametrize("keep", [True, False])
def test_views_that_share_rays_are_what_they_are_alone(turn, kind, keep):
    """Against projectors of one view each, which have nothing to share; off centre, so that no detector may be turned round."""
    angles, with_mirrors, with_turns = TURNS[turn]
    shape = (13, 10) if "not square" in kind else (13, 13)

    def make(angles):
        common = {"dtype": torch.float64, "keep": keep}
        if kind == "cone":
            return ConeBeam(angles, (4, *shape), 20.0, 31.0, Panel((5, 19), offset=(0.4, 0.7)), **common)
        detector = Detector(21, offset=0.7)
        if "fan" in kind:
            return FanBeam(angles, shape, 20.0, 31.0, detector, **common)
        return ParallelBeam(angles, shape, detector, **common)

    A = make(angles)
    alone = [make(angle[None]) for angle in angles]
    if "not square" not in kind:
        assert A.sets == (with_mirrors if kind == "parallel" else with_turns)
    x = torch.randn(2, 3, *A.shape, dtype=torch.float64)
    y = A(x)
    # Angles are called equal to 1e-9 of a quarter of a turn; in single precision, to 1e-6.
    tolerance = 1e-4 if angles.dtype == torch.float32 else 1e-7
    assert torch.allclose(y, torch.cat([one(x) for one in alone], dim=2), atol=tolerance)
    back = sum(one.adjoint(part) for one, part in zip(alone, y.split(1, dim=2), strict=True))
    assert torch.allclose(A.adjoint(y), back, atol=10 * tolerance)


@pytest.mark.parametrize("offset", [0.0, 9.3])
@pytest.mark.parametrize("fan", [False, True])
@pytest.mark.parametrize("kind", FILTERS)
def test_fbp_of_a_uniform_disc_is_water(fan, kind, offset):
    """From exact chords of 360 views, mean within 5 HU over the inner 80 % of the radius, and the rim where it should be."""
    spacing, radius, centre = 0.7, 50.0, (6.0, -4.5)
    angles = torch.arange(360, dtype=torch.float64) * (math.pi / 360 * (2 if fan else 1))
    A = (
        FanBeam(angles, (256, 256), 400.0, 700.0, Detector(offset=offset), spacing, keep=False)
        if fan
        else ParallelBeam(angles, (256, 256), Detector(offset=offset), spacing, keep=False)
    )
    s = A.positions * spacing - centre[0] * A.normals.cos() - centre[1] * A.normals.sin()
    image = A.fbp((2 * (radius**2 - s**2).clamp(min=0).sqrt()).float()[None, None])
    inner = disc((256, 256), 0.8 * radius, centre, spacing) == 1
    assert abs(1000 * float(image[inner].mean() - 1)) < 5
    outer = disc((256, 256), 1.3 * radius, centre, spacing) - disc((256, 256), 1.1 * radius, centre, spacing) == 1
    assert abs(1000 * float(image[outer].mean())) < 5


@pytest.mark.parametrize(("views", "kind"), [(23, "ramp"), *((180, kind) for kind in FILTERS)])
def test_fbp_is_as_good_as_scikit_images(views, kind):
    """On the same exact chords, on each one's own grid."""
    transform = pytest.importorskip("skimage.transform")
    n, spacing = 255, 0.4  # odd, so that both grids have the axis in the middle of a pixel
    angles = torch.arange(views, dtype=torch.float64) * math.pi / views
    A = ParallelBeam(angles, (n, n), Detector(n), spacing, keep=False)
    y = chords(angles[:, None], (torch.arange(n).double() - n // 2) * spacing)
    truth = ellipses((n, n), spacing)[0, 0].numpy()
    ours = A.fbp(y[None, None], kind)[0, 0].numpy()
    degrees = np.rad2deg(angles.numpy())
    theirs = transform.iradon(y.numpy().T, degrees, output_size=n, circle=True, filter_name=kind) / spacing
    inside = disc((n, n), n * spacing / 2 - 1, (0.0, 0.0), spacing)[0, 0].numpy() == 1  # theirs is 0 outside
    errors = [float(np.linalg.norm((image - truth)[inside])) for image in (ours, theirs)]
    assert errors[0] < 1.02 * errors[1]
    # The same window: what is left between them is the interpolation.
    assert np.linalg.norm((ours - theirs)[inside]) < 0.02 * np.linalg.norm(theirs[inside])


def test_fbp_counts_a_view_for_its_arc():
    """Views that are denser on one side of the turn do not bias the image."""
    even = torch.arange(180, dtype=torch.float64) * math.pi / 180
    uneven = torch.cat([even[:90], even[90::2]])
    truth = ellipses((128, 128), 0.8)
    errors = []
    for angles in (even, uneven):
        A = ParallelBeam(angles, (128, 128), spacing=0.8, keep=False)
        y = chords(angles[:, None], A.positions * 0.8)
        errors.append(float((A.fbp(y.float()[None, None]) - truth).norm() / truth.norm()))
    # Half as many views over half of the turn cost a little; counted alike, the other half would weigh twice.
    assert errors[1] < 1.2 * errors[0]


def test_ramp_keeps_no_constant_and_errors_speak():
    ramp = ramp_filter(512)
    assert abs(ramp[0]) < 1 / 512 and abs(ramp[-1] - 0.5) < 1e-3  # |f| up to Nyquist, and almost 0 at 0
    with pytest.raises(ValueError, match="choose one of ramp"):
        ramp_filter(64, "ram-lak")
    with pytest.raises(ValueError, match="degrees"):
        ParallelBeam(torch.arange(0.0, 180.0), (16, 16))
    with pytest.raises(ValueError, match="NaN"):
        ParallelBeam(torch.tensor([0.0, float("nan")]), (16, 16))
    with pytest.raises(ValueError, match="outside the image"):
        FanBeam(torch.arange(3.0), (64, 64), 40.0, 80.0)
    with pytest.raises(ValueError, match="full turn"):
        FanBeam(torch.arange(0.0, 3.2, 0.1), (8, 8), 40.0, 80.0).fbp(torch.zeros(1, 1, 32, 12))


def ball(shape, spacing, radius, centre, finer=4):
    """Centre as (z by index, up, right)."""
    z, y, x = ((np.arange(n * finer) - (n * finer - 1) / 2) * spacing / finer for n in shape)
    inside = (z[:, None, None] - centre[0]) ** 2 + (-y[:, None] - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2
    nz, ny, nx = shape
    return torch.from_numpy(inside.astype(np.float32).reshape(nz, finer, ny, finer, nx, finer).mean((1, 3, 5)))[
        None, None
    ]


def cone_chords(A, radius, centre):
    """Exact chords of a ball, from source and panel points in space."""
    R = A.source_to_axis
    v, u = torch.meshgrid(A.v, A.u, indexing="ij")
    out = []
    for beta in A.angles.tolist():
        cos, sin = math.cos(beta), math.sin(beta)
        source = torch.tensor([0.0, -R * cos, R * sin], dtype=torch.float64)
        through = torch.stack([v, u * sin, u * cos], dim=-1)
        d = through - source
        d = d / d.norm(dim=-1, keepdim=True)
        c = torch.tensor(centre, dtype=torch.float64) - source
        distance = c.norm() ** 2 - (d @ c) ** 2
        out.append(2 * (radius**2 - distance).clamp(min=0).sqrt())
    return torch.stack(out)


def test_cone_beam_rays_are_where_they_should_be():
    angles = torch.linspace(0, 2 * math.pi, 9, dtype=torch.float64)[:-1]
    centre, errors = (5.0, -6.0, 8.0), []
    for finer in (1, 2):
        shape, spacing = (48 * finer, 64 * finer, 64 * finer), 0.8 / finer
        A = ConeBeam(angles, shape, 90.0, 150.0, Panel((60, 80), 1.3, (2.0, -3.0)), spacing, keep=False)
        exact = cone_chords(A, 11.0, centre)
        errors.append(float((A(ball(shape, spacing, 11.0, centre))[0, 0] - exact).norm() / exact.norm()))
    # Voxels of 1/14 of the radius leave 3 % at the rim; it falls with the power 3/2 of their size.
    assert errors[0] < 0.04
    assert errors[1] < errors[0] / 2


def test_cone_beam_in_its_plane_is_fan_beam():
    angles = torch.linspace(0, 6.0, 7, dtype=torch.float64)
    x = torch.randn(1, 1, 1, 20, 24, dtype=torch.float64)
    cone = ConeBeam(angles, (1, 20, 24), 40.0, 60.0, Panel((1, 50)), dtype=torch.float64)
    fan = FanBeam(angles, (20, 24), 40.0, 60.0, Detector(50), dtype=torch.float64)
    assert torch.allclose(cone(x)[:, :, :, 0], fan(x[:, :, 0]), atol=1e-12)


@pytest.mark.parametrize("offset", [(0.0, 0.0), (2.6, -5.3)])
def test_fdk_of_a_ball_is_water(offset):
    angles = torch.arange(180, dtype=torch.float64) * math.pi / 90
    A = ConeBeam(angles, (24, 64, 64), 200.0, 300.0, Panel((48, 96), offset=offset), spacing=0.8, keep=False)
    centre = (2.0, -5.0, 4.0)
    image = A.fbp(cone_chords(A, 8.0, centre).float()[None, None])
    inner = ball((24, 64, 64), 0.8, 0.7 * 8.0, centre) == 1
    # A cone of 3 degrees: what FDK neglects is far below the edges' ringing.
    assert abs(float(image[inner].mean()) - 1) < 0.01
    assert abs(float(image[ball((24, 64, 64), 0.8, 11.0, centre) == 0].mean())) < 0.005


@pytest.mark.parametrize("fan", [False, True])
def test_the_default_detector_sees_all_of_the_image(fan):
    """For any detector spacing and offset, the sum of every view is the total mass."""
    angles = torch.linspace(0, 6.0, 13, dtype=torch.float64)
    x = torch.ones(1, 1, 20, 31, dtype=torch.float64)
    for detector_spacing, offset in ((0.35, 0.0), (0.7, 4.0), (1.4, -6.5)):
        common = {"detector": Detector(None, detector_spacing, offset), "spacing": 0.7, "dtype": torch.float64}
        A = FanBeam(angles, (20, 31), 1e4, 1e4, **common) if fan else ParallelBeam(angles, (20, 31), **common)
        mass = A(x).sum(-1) * detector_spacing
        assert float((mass / (20 * 31 * 0.49) - 1).abs().max()) < 0.05  # of rays that meet the edges


def test_a_missing_wedge_is_not_filled_by_its_neighbours():
    limited = torch.arange(120, dtype=torch.float64) * math.pi / 180
    arcs = view_arcs(limited, math.pi, wedge=math.pi / 12)
    assert torch.allclose(arcs, torch.full_like(arcs, math.pi / 180))
    assert abs(float(view_arcs(torch.tensor([0.0, 0.1, 0.5, 2.0]), math.pi).sum()) - math.pi) < 1e-6


def test_shapes_that_do_not_fit_are_named():
    A = ParallelBeam(torch.arange(3.0), (20, 31))
    with pytest.raises(ValueError, match=r"image must end in the axes \(20, 31\)"):
        A(torch.zeros(1, 1, 31, 20))
    with pytest.raises(ValueError, match="projection must end"):
        A.adjoint(torch.zeros(1, 1, 5, 3))


def test_interpolation_is_astras():
    """Its "linear" projector is Joseph's method too, so that nothing but rounding is between the two."""
    astra = pytest.importorskip("astra", exc_type=ImportError)  # its wheel wants CUDA's libraries
    angles = torch.arange(30, dtype=torch.float64) * math.pi / 30 + 0.02
    image = ellipses((64, 64), 1.6, 2)
    ours = ParallelBeam(angles, (64, 64), Detector(80))(image)[0, 0].numpy()
    volume = astra.create_vol_geom(64, 64)
    geometry = astra.create_proj_geom("parallel", 1.0, 80, angles.numpy())
    theirs = astra.OpTomo(astra.create_projector("linear", geometry, volume)).FP(image[0, 0].numpy())
    assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)


@pytest.mark.parametrize(
    "degrees",
    [
        [*range(21)],
        [90.0],
        [*range(80, 101)],
        [45.0, 60.0, 70.0],
        [0.5 * k for k in range(360)],
        [111.25 * k for k in range(9)],
    ],
)
def test_degrees_are_noticed(degrees):
    with pytest.raises(ValueError, match="are they degrees"):
        ParallelBeam(torch.tensor(degrees), (8, 8))


def test_radians_are_not_taken_for_degrees():
    golden = 1.9416110387 * torch.arange(12, dtype=DOUBLE)  # unwrapped, three and a half turns
    for angles in (golden, torch.arange(0.0, 3.0, 0.125), torch.arange(7.0), torch.linspace(-6.3, 6.3, 9)):
        ParallelBeam(angles, (8, 8))
    with pytest.raises(ValueError, match=r"angles % \(2 \* torch.pi\)"):  # the way out of a false alarm
        ParallelBeam(1.9416110387 * torch.arange(100), (8, 8))


def test_views_that_coincide_share_their_arc():
    """Opposite views of parallel rays are the same rays: a full turn of few views is as good as half of it, twice."""
    x = torch.zeros(1, 1, 32, 32)
    x[..., 8:24, 10:22] = 1
    for views in (10, 16, 20, 22, 24):
        half = torch.arange(views // 2, dtype=DOUBLE) * 2 * math.pi / views
        A, B = (ParallelBeam(a, (32, 32), Detector(47)) for a in (half, torch.cat([half, half + math.pi])))
        assert torch.allclose(A.fbp(A(x)), B.fbp(B(x)), atol=1e-3)
        assert abs(float(B.fbp(B(x))[..., 10:22, 12:20].mean()) - 1) < 0.15
