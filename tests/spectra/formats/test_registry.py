"""Files of any kind: what is recognised, and that what is wrong with them is said in one line."""

from __future__ import annotations

import bz2
import gzip
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from flat_star import make_spectrum
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maury.errors import MauryError, SpectrumError
from maury.spectra import Spectrum, read_apvisit, read_spectrum, write_apvisit
from maury.spectra.formats import fits as files
from maury.spectra.formats.bits import BAD, bits
from maury.spectra.formats.registry import FORMATS
from maury.text import readable

Visit = Callable[..., Path]


def test_formats_are_found_by_content(write_visit: Visit, tmp_path: Path) -> None:
    path = write_visit().rename(tmp_path / "no_suffix")
    assert read_spectrum(str(path)).id == "2M00242666+5341178"
    assert len({form.name for form in FORMATS}) == 7


@pytest.mark.parametrize("release", ["dr16", "dr17", "dr19"])
def test_a_visit_without_its_marks_is_known_by_its_shape(write_visit: Visit, release: str) -> None:
    def strip(hdus: fits.HDUList) -> None:
        for key in ("HISTORY", "OBJID", "SURVEY"):
            hdus[0].header.remove(key, ignore_missing=True, remove_all=True)

    assert read_spectrum(write_visit(strip, release=release)).id == "apVisit-test"


def test_reject_is_handed_on(write_visit: Visit) -> None:
    bitmask = np.zeros(192, dtype=np.int64)
    bitmask[:2] = bits("SIG_SKYLINE"), bits("BADPIX")
    path = write_visit(bitmask=bitmask)
    found = [np.count_nonzero(~read_spectrum(path, reject=reject).good) for reject in (None, BAD, 0)]
    assert found == [2, 1, 0]


def test_real_visit(real_visit: Path) -> None:
    assert read_spectrum(real_visit).grid.n_pixels == 12288


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_files(
    write_visit: Visit, tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    plain = write_visit(header={"OBJID": None})
    packed = tmp_path / f"apVisit-test.fits{suffix}"
    packed.write_bytes(pack(plain.read_bytes()))
    np.testing.assert_array_equal(read_spectrum(packed).flux, read_spectrum(plain).flux)
    assert read_spectrum(packed).id == "apVisit-test"
    packed.write_bytes(packed.read_bytes()[:-2000])
    fails(packed, "compressed file is damaged or truncated")
    packed.write_bytes(pack(plain.read_bytes()[:-9000]))
    fails(packed, "HDU 10: .*truncated")
    packed.write_bytes(pack(b"some text"))
    fails(packed, "looks like text")


def test_compressed_files_do_not_fill_the_memory(
    write_visit: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "bomb.fits.gz"
    packed.write_bytes(gzip.compress(write_visit().read_bytes()))
    monkeypatch.setattr(files, "_UNPACKED_LIMIT", 10_000)
    fails(packed, "unpacks to more than")


def fails(path: Path, message: str) -> None:
    """One line that names the file, and no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SpectrumError, match=message) as caught:
            read_spectrum(path)
    assert readable(path.name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    fails(tmp_path / "absent.fits", "no such file")
    fails(tmp_path / ("long" * 100), "long")
    fails(tmp_path / "nul\0.fits", "nul")


def test_directory(tmp_path: Path) -> None:
    fails(tmp_path, "directory")


def test_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.fits")
    fails(tmp_path / "pipe.fits", "not a regular file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(write_visit: Visit) -> None:
    path = write_visit()
    path.chmod(0)
    fails(path, "permission")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"wavelength flux\n1 2\n", "looks like text"),
        (b"<html>404</html>", "HTML"),
        (b"PK\x03\x04....", "zip"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\x00\x01\x02" * 2000, "binary"),
        (b"SIMPLE  =                    T", "damaged"),
        (b"SIMPLE  = " + b"\xff" * 2870, "damaged"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "other.fits").write_bytes(content)
    fails(tmp_path / "other.fits", message)


def apstar(n_visits: int) -> fits.HDUList:
    primary = fits.PrimaryHDU()
    primary.header.update({"NVISITS": n_visits, "OBJID": "a", "CTYPE1": "LOG-LINEAR"})
    return fits.HDUList([primary, *(fits.ImageHDU(np.ones((n_visits + 2, 8575), "f4")) for _ in range(8))])


def mwmstar() -> fits.HDUList:
    primary = fits.PrimaryHDU()
    primary.header["SDSS_ID"] = 1
    column = fits.Column("flux", "4E", array=np.ones((1, 4)))
    return fits.HDUList([primary, *(fits.BinTableHDU.from_columns([column]) for _ in range(4))])


def aspcapstar() -> fits.HDUList:
    images = [fits.ImageHDU(np.ones(8575, "f4")) for _ in range(3)]
    images[0].header["CRVAL1"] = 4.179
    return fits.HDUList([fits.PrimaryHDU(), *images])


@pytest.mark.parametrize(
    ("hdus", "message"),
    [
        (apstar(1), "CRVAL1"),
        (apstar(3), "CRVAL1"),
        (mwmstar(), "HDU 3: column 'ivar' is missing"),
        (aspcapstar(), "known are .*aspcapStar"),
        (fits.HDUList([fits.PrimaryHDU(np.ones((3, 4)))]), r"0: PrimaryHDU \(3, 4\)"),
        (fits.HDUList([fits.PrimaryHDU()]), "another kind"),
    ],
)
def test_other_fits_files(tmp_path: Path, hdus: fits.HDUList, message: str) -> None:
    hdus.writeto(tmp_path / "other.fits")
    fails(tmp_path / "other.fits", message)


def test_absurd_sizes_cost_nothing(write_visit: Visit) -> None:
    content = write_visit().read_bytes()
    path = write_visit()
    for old, new in ((b"NAXIS1  =                   64", 64), (b"NAXIS2  =                    3", 3)):
        assert old in content
        path.write_bytes(content.replace(old, old.replace(str(new).encode().rjust(12), b"999999999999")))
        fails(path, "truncated")


@pytest.mark.parametrize("kept", [100, 2880, 3000, 6000, 9000, 20_000, -1, -2000, -2881, -8340])
def test_truncated_files(write_visit: Visit, kept: int) -> None:
    path = write_visit()
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    # Only the padding of the last HDU may be missing.
    if -2880 < kept < 0:
        read_spectrum(path)
    else:
        fails(path, "truncated|missing")


def test_damaged_header_in_the_middle_is_seen(write_visit: Visit) -> None:
    path = write_visit()
    content = path.read_bytes()
    with fits.open(path) as hdus:
        start = hdus[6].fileinfo()["hdrLoc"]
    path.write_bytes(content[:start] + b"X" * 20 + content[start + 20 :])
    fails(path, "HDU 6: its header is damaged")


def test_blank_bytes_after_the_end_do_no_harm(write_visit: Visit) -> None:
    path = write_visit()
    path.write_bytes(path.read_bytes() + b"\0" * 5000)
    read_spectrum(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("damage") / "apVisit-small.fits"
    write_apvisit(path, make_spectrum(8), release="dr17")
    return path, path.read_bytes()


def outcome(read: Callable[[Path], Spectrum], path: Path) -> Spectrum | str:
    try:
        return read(path)
    except MauryError as error:
        return str(error)


def survives(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for read in (read_spectrum, read_apvisit):
        found = outcome(read, path)
        if isinstance(found, str):
            assert path.name in found
            assert "\n" not in found
        else:
            assert np.all(np.isfinite(found.flux))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_escapes(small: tuple[Path, bytes], data: Any) -> None:
    path, whole = small
    content = bytearray(whole)
    # Half of the flips go to the cards that say how to read the file.
    cards = [
        at
        for at in range(0, len(whole), 80)
        if whole[at : at + 5] in (b"NAXIS", b"BITPI", b"XTENS", b"TFORM")
    ]
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.integers(0, len(whole) - 1), st.sampled_from(cards)))
        at = min(at + data.draw(st.integers(0, 30)), len(whole) - 1)
        content[at] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b"0123456789 -'")))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    survives(path, bytes(content))


def test_an_unknown_file_is_told_what_is_known(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.zeros((5, 5))).writeto(tmp_path / "image.fits")
    with pytest.raises(
        SpectrumError,
        match=r"SDSS spec, IGRINS, table\. A table \(FITS, ECSV, Parquet or VOTable\) needs columns wavelength and flux",
    ):
        read_spectrum(tmp_path / "image.fits")
