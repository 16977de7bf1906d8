"""Echo planar imaging: lines on ramps and in both directions, simulated from the physics and from a real scanner."""

import ismrmrd
import numpy as np
import pytest
from ismrmrd import xsd

from medrecon.cli import main
from medrecon.data.coils import combine_coils, from_kspace
from medrecon.data.errors import InputError, NotCartesianError
from medrecon.data.noise import noise_scan_std
from medrecon.formats import load_kspace, load_noncartesian
from medrecon.formats.epi import Readout, direction_phase, resampling_matrix, sample_points
from tests.make.ismrmrd import header, line, write

SHAPE = (64, 30)  # readout with twofold oversampling, phase
PIXEL = (2.0, 3.0)
FIELD = (128.0, 90.0)
MIDDLE = np.array([3.0, -4.0, 5.0])
DIRS = np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1.0]])  # readout, phase, slice
BLOBS = (
    (0.0, 0.0, 12.0, 1.0),
    (14.0, -10.0, 4.0, 0.4),
    (-15.0, 16.0, 3.0, 0.5),
    (-10.0, -20.0, 1.2, 0.6),
)  # readout, phase, width in mm, height
SHARP = ((0.0, 0.0, 1.0, 1.0), (14.0, -10.0, 1.0, 0.7))  # whose k-space reaches far up the ramps
TIMES = {"rampUpTime": 160, "flatTopTime": 160, "rampDownTime": 120, "acqDelayTime": 40, "numSamples": 96}
DWELL = 3.75


def positions(samples=96, sinusoidal=False, fine=200):
    """Of a line's samples, from the gradient's waveform summed in small steps, and of the maximum alone; cycles/mm."""
    up, flat, down, delay = (TIMES[k] for k in ("rampUpTime", "flatTopTime", "rampDownTime", "acqDelayTime"))
    step = DWELL / fine
    t = (np.arange(int((up + flat + down) / step)) + 0.5) * step
    left = up + flat + down - t
    ramps = [np.minimum(t / up, 1), np.minimum(left / down, 1)]
    if sinusoidal:
        ramps = [np.sin(np.pi / 2 * ramp) for ramp in ramps]
    area = np.cumsum(ramps[0] * ramps[1]) * step
    t = t + step / 2  # where a step ends
    at = delay + DWELL * (np.arange(samples) + 0.5)
    span = np.interp(delay + DWELL * samples, t, area) - np.interp(delay, t, area)
    scale = 1 / (PIXEL[0] * span)
    middle = np.interp(area[-1] / 2, area, t)
    return scale * (np.interp(at, t, area) - area[-1] / 2), scale * (at - middle)


def signal(kx, ky, sign=1, blobs=BLOBS):
    """Of the blobs, exactly, for positions in cycles/mm along readout and phase; two coils."""
    total = sum(
        h * s**2 * np.exp(-2 * (np.pi * s) ** 2 * (kx**2 + ky**2)) * np.exp(sign * 2j * np.pi * (kx * x + ky * y))
        for x, y, s, h in blobs
    )
    return np.stack([total, 0.5j * total])


def lines_of(delay=0.0, phase=0.0, sign=1, shift=0.0, ramps=True, sinusoidal=False, blobs=BLOBS):
    """Navigators and lines as the scanner samples them: ``(kind, ky index, backward, data)``.

    ``delay`` moves the samples of backward lines against those of forward ones, in samples of the maximum; ``phase`` turns them.
    ``shift`` in mm is what the constant frequency of the receiver takes the field of view off the centre.
    """
    points, linear = positions(sinusoidal=sinusoidal) if ramps else [(np.arange(64) - 32) / FIELD[0]] * 2
    step = np.diff(linear)[0]
    out = []
    for n in range(-3, SHAPE[1]):
        backward = bool(n % 2)
        way = -1 if backward else 1
        # Even samples have one at 0, which is not their middle: a line that is turned round has its own at 0, too.
        kx = points[::-1] if backward and not ramps else way * points
        ky = 0.0 if n < 0 else (n - SHAPE[1] // 2) / FIELD[1]
        data = signal(kx + way * delay * step / 2, ky, sign, blobs) * np.exp(1j * way * phase / 2)
        # What lies at the shift, for which the axes of the header count, and the receiver's frequency.
        data = data * np.exp(sign * 2j * np.pi * shift * (kx - way * linear))
        out.append(("navigator" if n < 0 else "line", max(n, 0), backward, data))
    return out


def truth(blobs=BLOBS):
    """Image of the blobs by even sampling, ``(readout, phase)`` without oversampling."""
    kx, ky = np.meshgrid(*[(np.arange(n) - n // 2) / f for n, f in zip(SHAPE, FIELD, strict=True)], indexing="ij")
    return np.abs(from_kspace(signal(kx, ky, 1, blobs)[0]))[16:48]


def described(kind="cartesian", **changes):
    """A header like those of the vendor's converter."""
    xml = header((*SHAPE, 1), (*FIELD, 4), recon=((32, 30, 1), (64, 90, 4)), kind=kind)
    xml.acquisitionSystemInformation.systemVendor = "SIEMENS"
    held = {name: value for name, value in (TIMES | changes).items() if value is not None}
    xml.encoding[0].trajectoryDescription = xsd.trajectoryDescriptionType(
        identifier="ConventionalEPI",
        userParameterLong=[xsd.userParameterLongType(name=name, value=value) for name, value in held.items()],
        userParameterDouble=[xsd.userParameterDoubleType(name="dwellTime", value=DWELL)],
    )
    return xml


def acquisitions(measured, position=MIDDLE, **counters):
    out = []
    for kind, y, backward, data in measured:
        flags = [ismrmrd.ACQ_IS_REVERSE] if backward else []
        flags += [ismrmrd.ACQ_IS_PHASECORR_DATA] if kind == "navigator" else []
        out.append(line(data, flags, dirs=DIRS, position=position, kspace_encode_step_1=y, dwell=DWELL, **counters))
    return out


def magnitude(path, select=None):
    """Of the first coil."""
    data = load_kspace(path, select)
    return np.abs(from_kspace(data.kspace)[0, 0]), data


def error(image, other):
    return np.linalg.norm(image - other) / np.linalg.norm(other)


@pytest.mark.parametrize("sinusoidal", [False, True])
def test_positions_are_the_area_under_the_gradient(sinusoidal):
    readout = Readout(160, 160, 120, 40, DWELL, sinusoidal)
    points, linear = sample_points(readout, 96, 64)
    expected = positions(sinusoidal=sinusoidal)
    assert np.abs(points - expected[0] * FIELD[0]).max() < 1e-3
    assert np.abs(linear - expected[1] * FIELD[0]).max() < 2e-2
    with pytest.raises(ValueError, match="do not fit under a gradient of 440 us"):
        sample_points(readout, 120, 64)


def test_resampling_is_exact_for_what_the_samples_can_tell():
    points, _ = sample_points(Readout(160, 160, 120, 40, DWELL), 96, 64)
    inside = np.array([-16.3, 0.0, 7.2, 15.9])  # pixels of a field of view of 64
    waves = np.exp(-2j * np.pi * np.outer(points, inside) / 64)
    grid = np.exp(-2j * np.pi * np.outer(np.arange(64) - 32, inside) / 64)
    # The cut-off of the inverse leaves 7e-3.
    assert np.abs(resampling_matrix(points, 64, 32) @ waves - grid).max() < 1e-2
    with pytest.raises(ValueError, match="too sparse for 60 of 64"):
        resampling_matrix(points[::2], 64, 60)


def test_ramps_directions_and_delays_are_undone(tmp_path):
    """The image is that of even sampling; without each of the corrections it is not."""
    plain, data = magnitude(write(tmp_path / "a.h5", described(), acquisitions(lines_of())))
    assert data.kspace.shape == (1, 2, 32, 30)
    assert error(plain, truth()) < 5e-3
    assert data.warnings == ()
    assert data.attributes["ramps"] == "resampled"
    delayed = acquisitions(lines_of(delay=0.9, phase=0.8))
    image, data = magnitude(write(tmp_path / "b.h5", described(), delayed))
    assert error(image, truth()) < 1e-2
    assert data.attributes["readout directions"] == "phase corrected"
    lines = [one for one in delayed if not one.is_flag_set(ismrmrd.ACQ_IS_PHASECORR_DATA)]
    image, data = magnitude(write(tmp_path / "c.h5", described(), lines))
    assert error(image, truth()) > 0.2
    assert "both readout directions" in data.warnings[0]
    xml = described()
    xml.encoding[0].trajectoryDescription = None
    whole = [line(np.pad(one.data, [(0, 0), (0, 0)])[:, 16:80], [], kspace_encode_step_1=y, dirs=DIRS)
             for y, one in enumerate(lines)]  # fmt: skip
    assert error(magnitude(write(tmp_path / "d.h5", xml, whole))[0], truth()) > 0.2


def test_the_trajectory_may_be_called_epi(tmp_path, capsys):
    image, _ = magnitude(write(tmp_path / "a.h5", described("epi"), acquisitions(lines_of(0.9, 0.8))))
    assert error(image, truth()) < 1e-2
    xml = described("epi")
    xml.encoding[0].trajectoryDescription = None
    path = write(tmp_path / "b.h5", xml, acquisitions(lines_of()))
    assert main(["info", str(path)]) == 2
    assert "does not describe the readout gradient" in capsys.readouterr().err


def test_epi_with_trajectories_of_its_own_is_read_off_the_grid(tmp_path):
    """Its samples are where the file says; the phase correction scans are not supported there, which is said."""
    xml, lines = described("epi"), []
    xml.encoding[0].trajectoryDescription = None
    points = positions()[0] * PIXEL[0]
    for one, (_, y, backward, data) in zip(acquisitions(lines_of()), lines_of(), strict=True):
        ky = np.full(96, (y - SHAPE[1] // 2) / SHAPE[1])
        path = np.stack([-points if backward else points, ky], axis=1).astype(np.float32)
        full = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data, np.complex64), path)
        for name in ("read_dir", "phase_dir", "slice_dir", "position", "flags"):
            setattr(full, name, getattr(one, name))
        full.idx.kspace_encode_step_1 = y
        lines.append(full)
    path = write(tmp_path / "a.h5", xml, lines)
    with pytest.raises(NotCartesianError, match="load it with LoadNonCartesiand"):
        load_kspace(path)
    data = load_noncartesian(path)
    assert data.samples.shape == (1, 2, 30, 96)
    assert "phase correction scans are not supported" in data.warnings[0]


def test_even_lines_of_both_directions_are_phase_corrected(tmp_path):
    xml = described()
    xml.encoding[0].trajectoryDescription = None
    image, data = magnitude(write(tmp_path / "a.h5", xml, acquisitions(lines_of(0.9, 0.8, ramps=False))))
    assert error(image, truth()) < 1e-2
    assert "ramps" not in data.attributes


@pytest.mark.parametrize(("vendor", "sign"), [("SIEMENS", 1), ("maker", -1)])
def test_the_place_of_the_blobs_off_the_centre(tmp_path, vendor, sign):
    """The brightest voxel is the broad blob's middle. Siemens' receiver has a constant frequency while the gradient ramps."""
    position = MIDDLE + 40 * DIRS[0]
    shift = float(position @ DIRS[0]) if vendor == "SIEMENS" else 0.0
    xml = described()
    xml.acquisitionSystemInformation.systemVendor = vendor
    lines = acquisitions(lines_of(0.5, 0.4, sign, shift, blobs=SHARP), position)
    image, data = magnitude(write(tmp_path / "a.h5", xml, lines))
    # With the other sign the image runs backwards about its middle, n // 2.
    expected = truth(SHARP)
    assert error(image, expected if sign == 1 else np.roll(expected[::-1, ::-1], (1, 1), (0, 1))) < 0.02
    y, x = np.unravel_index(image.argmax(), image.shape)
    lps = np.diag([-1, -1, 1]) @ (data.affine @ [x, y, 0, 1])[:3]
    assert np.abs(lps - position).max() < 0.1


def test_every_shot_has_navigators_of_its_own(tmp_path):
    """Two repetitions with other delays; and a slice without navigators is said."""
    both = [one for k in range(2) for one in acquisitions(lines_of(2.0 * k - 1, 1.5 * k), repetition=k)]
    path = write(tmp_path / "a.h5", described(), both)
    for k in range(2):
        assert error(magnitude(path, {"repetition": k})[0], truth()) < 1e-2
    lines = [one for s in range(2) for one in acquisitions(lines_of(), MIDDLE + 6.0 * s * DIRS[2], slice=s)]
    lines = [one for one in lines if one.idx.slice == 0 or not one.is_flag_set(ismrmrd.ACQ_IS_PHASECORR_DATA)]
    assert "30 lines measured in both" in load_kspace(write(tmp_path / "b.h5", described(), lines)).warnings[0]


def test_the_noise_scan_follows_the_resampling(tmp_path):
    rng = np.random.default_rng(0)
    lines = acquisitions(lines_of())
    for one in lines:
        one.data[:] = rng.normal(size=one.data.shape) + 1j * rng.normal(size=one.data.shape)
    lines = [one for one in lines if not one.is_flag_set(ismrmrd.ACQ_IS_PHASECORR_DATA)]
    scan = rng.normal(size=(2, 4000)) + 1j * rng.normal(size=(2, 4000))
    lines.insert(0, line(scan, [ismrmrd.ACQ_IS_NOISE_MEASUREMENT], dwell=DWELL))
    data = load_kspace(write(tmp_path / "a.h5", described(), lines))
    measured = np.sqrt((np.abs(data.kspace) ** 2).mean() / 2)
    # 3840 real values give the deviation to 1.2 %, the scan to 0.6 %; without the resampling's part it is off by 10 %.
    assert noise_scan_std(data.noise_scan) == pytest.approx(measured, rel=0.04)


def test_what_does_not_fit_is_refused(tmp_path, capsys):
    lines = acquisitions(lines_of())
    for changes, reason in (
        ({"acqDelayTime": None}, "lacks acqDelayTime"),
        ({"flatTopTime": 0}, "has no flat top"),
        ({"numSamples": 80}, "does not match the number of samples"),
        ({"rampDownTime": 10}, "do not fit under a gradient"),
        ({"flatTopTime": 2000}, "the centre of its lines is sample"),
    ):
        path = write(tmp_path / f"{'-'.join(changes)}{len(reason)}.h5", described(**changes), lines)
        assert main(["info", str(path)]) == 2
        text = capsys.readouterr().err
        assert reason in text
        assert str(path) in text
    banded = described()
    banded.encoding[0].parallelImaging = xsd.parallelImagingType(
        accelerationFactor=xsd.accelerationFactorType(kspace_encoding_step_1=1, kspace_encoding_step_2=1),
        multiband=xsd.multibandType(
            deltaKz=1.0, multiband_factor=3, calibration=xsd.multibandCalibrationType.FULL3_D, calibration_encoding=0
        ),
    )
    with pytest.raises(InputError, match="3 slices were excited at once"):
        load_kspace(write(tmp_path / "m.h5", banded, lines))


def test_phase_by_two_or_three_navigators():
    x = np.arange(32) - 16
    profile = np.exp(-((x / 6) ** 2)) * np.array([[1], [0.5j]])
    expected = 0.11 * x + 0.7
    lines = [profile * np.exp(1j * (0.5 * (-1) ** k * -expected + 0.2 * k)) for k in range(3)]
    kspace = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(np.array(lines), -1), norm="ortho"), -1)
    reverse = np.array([True, False, True])
    near = np.abs(x) < 10
    # Three navigators cancel the phase that grows by 0.2 from line to line.
    assert np.abs(direction_phase(kspace, reverse) - expected)[near].max() < 1e-6
    assert np.abs(direction_phase(kspace[:2], reverse[:2]) - expected - 0.2)[near].max() < 1e-6
    assert direction_phase(kspace[::2], reverse[::2]) is None


@pytest.mark.parametrize(("mode", "sinusoidal"), [(2, False), (4, True)])
def test_a_scanners_own_file(tmp_path, mode, sinusoidal, capsys):
    """The gradient is in the protocol; ramps are straight or sinusoidal, and nothing else is guessed."""
    twix = pytest.importorskip("tests.make.twix")
    times = {
        "Rampup": "rampUpTime",
        "Flattop": "flatTopTime",
        "Rampdown": "rampDownTime",
        "DelaySamples": "acqDelayTime",
    }
    meas = {("Long", f"alRegrid{key}Time"): f"{TIMES[name]} 0" for key, name in times.items()}
    meas |= {("Long", "alRegridMode"): f"{mode} 1", ("Double", "aflRegridADCDuration"): f"{96 * DWELL} 0"}
    position = 30 * twix.TURN.as_matrix()[:, 1]
    measured = [
        twix.line(
            data.astype(np.complex64),
            [*(["REFLECT"] if backward else []), *(["PHASCOR"] if kind == "navigator" else [])],
            lin=y, centre=(15, 0), column=48, position=position,
        )
        for kind, y, backward, data in lines_of(0.9, 0.8, shift=30.0, sinusoidal=sinusoidal, blobs=SHARP)
    ]  # fmt: skip
    image, data = magnitude(twix.write(tmp_path / "a.dat", measured, twix.header(meas=meas)))
    assert error(image, truth(SHARP)) < 0.02
    y, x = np.unravel_index(image.argmax(), image.shape)
    lps = np.diag([-1, -1, 1]) @ (data.affine @ [x, y, 0, 1])[:3]
    assert np.abs(lps - position).max() < 0.1
    path = twix.write(tmp_path / "b.dat", measured, twix.header(meas=meas | {("Long", "alRegridMode"): "3 1"}))
    assert main(["info", str(path)]) == 2
    assert "with this shape of the gradient ramps (3)" in capsys.readouterr().err
    banded = twix.header(meas=meas, **{"sSliceAcceleration.lMultiBandFactor": 2})
    with pytest.raises(InputError, match="2 slices were excited at once"):
        load_kspace(twix.write(tmp_path / "c.dat", measured, banded))


def test_reference_lines_have_navigators_of_their_own(tmp_path):
    """Every other line of the image, the rest as reference lines of another delay; and those of a gradient echo are left out."""
    image = [one for one in lines_of(0.9, 0.8) if one[0] == "navigator" or one[1] % 4 < 2]
    rest = [one for one in lines_of(-0.7, -0.5) if one[0] == "navigator" or one[1] % 4 >= 2]
    lines = acquisitions(rest)
    for one in lines:
        one.set_flag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
    found, data = magnitude(write(tmp_path / "a.h5", described(), [*lines, *acquisitions(image)]))
    assert data.mask.all()
    assert error(found, truth()) < 1e-2
    forward = [one for one in lines if not one.is_flag_set(ismrmrd.ACQ_IS_REVERSE)]
    data = load_kspace(write(tmp_path / "b.h5", described(), [*forward, *acquisitions(image)]))
    assert data.mask.sum() == 16
    assert "reference lines" in data.warnings[0]


def real(data_folder, name):
    path = data_folder / "kspace" / "siemens" / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    return path


def of_twixtools(path):
    """``(readout, phase)`` by twixtools' own resampling, and the linear phase of each direction's navigators taken away.

    Of each direction alone: twixtools' demonstration leaves their constant difference.
    """
    twixtools = pytest.importorskip("twixtools")
    scan = twixtools.map_twix(twixtools.read_twix(str(path), parse_pmu=False, verbose=False))[-1]
    for part in ("image", "phasecorr"):
        scan[part].flags.update(remove_os=True, regrid=True)
        scan[part].flags["average"]["Seg"] = False
    scan["phasecorr"].flags["skip_empty_lead"] = True
    navigators = from_kspace(scan["phasecorr"][:], (-1,))
    product = (navigators[..., 1:].conj() * navigators[..., :-1]).sum(axis=(-2, -1), keepdims=True)
    x = np.arange(navigators.shape[-1]) - navigators.shape[-1] // 2
    lines = (from_kspace(scan["image"][:], (-1,)) * np.exp(1j * np.angle(product) * x)).sum(axis=5).squeeze()
    return np.linalg.norm(from_kspace(lines, (0,)), axis=1).T


def ghost(image, outline):
    """Mean of the image where only the ghost of what is inside the outline lies, over its mean inside."""
    from scipy.ndimage import binary_dilation, binary_erosion

    outside = ~binary_dilation(outline, iterations=2)
    shifted = np.roll(binary_erosion(outline, iterations=2), image.shape[1] // 2, axis=1)
    return image[outside & shifted].mean() / image[outline].mean()


def test_a_real_scan(data_folder):
    """Beside twixtools' image of the same file, and a gradient echo of the same slice of the same phantom."""
    path = real(data_folder, "epi.dat")
    data, other = load_kspace(path), load_kspace(real(data_folder, "gre.dat"))
    image, reference = combine_coils(data.kspace)[0], of_twixtools(path)
    echo = combine_coils(other.kspace[:, :, 40:120, 40:120])[0]  # of the same field of view and pixels
    assert np.allclose(other.affine[:3, :2] * 2, data.affine[:3, :2], atol=1e-6)

    def alike(a, b):
        return np.corrcoef(a.ravel(), b.ravel())[0, 1]

    assert alike(image, reference) > 0.97
    # Nearer to the truth than the reference is, whose linear interpolation blurs; off resonance, 1 is out of reach.
    assert alike(image, echo) > max(0.92, alike(reference, echo))
    outline = echo > 0.3 * np.percentile(echo, 95)
    levels = [ghost(a, outline) for a in (image, reference, read_uncorrected(path))]
    print("ghost {:.3f}, twixtools {:.3f}, nothing corrected {:.3f}".format(*levels))
    # Noise alone gives 0.065 here; the reference's linear interpolation smooths it.
    assert levels[0] < min(1.2 * levels[1], 0.4 * levels[2])
    assert data.warnings == ()


def read_uncorrected(path):
    """As if the lines were Cartesian: what was read before."""
    twixtools = pytest.importorskip("twixtools")
    kspace = np.zeros((1, 2, 160, 80), np.complex64)
    for mdb in twixtools.read_twix(str(path), parse_pmu=False, verbose=False)[-1]["mdb"]:
        if not mdb.is_flag_set("PHASCOR"):
            kspace[0, :, :, mdb.cLin] = mdb.data[:, ::-1] if mdb.is_flag_set("REFLECT") else mdb.data
    return np.linalg.norm(from_kspace(kspace)[0, :, 40:120], axis=0)


def test_the_converted_file_gives_the_same_image(data_folder, tmp_path):
    """The scan's samples, flags, places and header as siemens_to_ismrmrd writes them."""
    twixtools = pytest.importorskip("twixtools")
    path = real(data_folder, "epi.dat")
    scan = twixtools.read_twix(str(path), parse_pmu=False, verbose=False)[-1]
    lines = []
    for mdb in scan["mdb"]:
        flags = [ismrmrd.ACQ_IS_REVERSE] if mdb.is_flag_set("REFLECT") else []
        if mdb.is_flag_set("PHASCOR"):
            flags += [ismrmrd.ACQ_IS_PHASECORR_DATA, ismrmrd.ACQ_IS_NAVIGATION_DATA, ismrmrd.ACQ_IS_RTFEEDBACK_DATA]
        place, turn = mdb.mdh.SliceData, twixtools.geometry.quat_to_rotmat(*map(float, mdb.mdh.SliceData.Quaternion))
        where = [place.SlicePos.Sag, place.SlicePos.Cor, place.SlicePos.Tra]
        lines.append(line(mdb.data, flags, dirs=turn[:, [1, 0, 2]].T, position=where, kspace_encode_step_1=mdb.cLin))
    xml = header((160, 80, 1), (400, 200, 4), recon=((80, 80, 1), (200, 200, 4)))
    xml.acquisitionSystemInformation.systemVendor = "SIEMENS"
    times = dict(
        rampUpTime=160, flatTopTime=240, rampDownTime=160, acqDelayTime=32, numSamples=160, numberOfNavigators=3
    )
    xml.encoding[0].trajectoryDescription = xsd.trajectoryDescriptionType(
        identifier="ConventionalEPI",
        userParameterLong=[xsd.userParameterLongType(name=name, value=value) for name, value in times.items()],
        userParameterDouble=[xsd.userParameterDoubleType(name="dwellTime", value=3.1)],
    )
    first, second = load_kspace(path), load_kspace(write(tmp_path / "a.h5", xml, lines))
    assert np.abs(first.kspace - second.kspace).max() < 1e-5 * np.abs(first.kspace).max()
    assert np.abs(first.affine - second.affine).max() < 1e-5
