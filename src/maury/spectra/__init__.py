"""Observed spectra: what they are, and how files become them."""

from maury.spectra.apogee import read_apvisit
from maury.spectra.registry import read_spectrum
from maury.spectra.spectrum import PixelGrid, Spectrum, apstar_grid
from maury.spectra.synthetic import nominal_visit_grid, write_apvisit

__all__ = [
    "PixelGrid",
    "Spectrum",
    "apstar_grid",
    "nominal_visit_grid",
    "read_apvisit",
    "read_spectrum",
    "write_apvisit",
]
