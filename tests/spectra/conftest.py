"""Fixtures of the readers' tests: small visits, changed as a test wants, and the real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits
from flat_star import make_spectrum

from maury.spectra.formats.writers import write_apvisit
from maury.spectra.spectrum import Spectrum


@pytest.fixture
def spectrum() -> Spectrum:
    return make_spectrum()


@pytest.fixture
def write_visit(tmp_path: Path) -> Callable[..., Path]:
    """Write a visit, then change its HDUs as a list of functions tells."""

    def write(*edits: Callable[[fits.HDUList], Any], source: Spectrum | None = None, **options: Any) -> Path:
        path = tmp_path / "apVisit-test.fits"
        write_apvisit(path, make_spectrum() if source is None else source, **options)
        if edits:
            with fits.open(path, memmap=False) as hdus:
                for hdu in hdus:
                    _ = hdu.data
                for edit in edits:
                    edit(hdus)
                hdus.writeto(path, overwrite=True, output_verify="ignore")
        return path

    return write


@pytest.fixture(scope="session")
def real_visit(shared: Path) -> Path:
    path = shared / "data/real/apVisit-r13-9518-57729-104.fits"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    return path
