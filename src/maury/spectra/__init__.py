"""Observed spectra: what they are, and how files become them."""

from maury.spectra.formats.apogee import read_apvisit
from maury.spectra.formats.registry import read_spectra, read_spectrum
from maury.spectra.formats.star_writers import write_apstar, write_aspcapstar, write_mwm
from maury.spectra.formats.table import from_specutils, read_table, write_table
from maury.spectra.formats.writers import nominal_visit_grid, write_apvisit
from maury.spectra.instrument import apstar_grid
from maury.spectra.spectrum import PixelGrid, Spectrum

__all__ = [
    "PixelGrid",
    "Spectrum",
    "apstar_grid",
    "from_specutils",
    "nominal_visit_grid",
    "read_apvisit",
    "read_spectra",
    "read_spectrum",
    "read_table",
    "write_apstar",
    "write_apvisit",
    "write_aspcapstar",
    "write_mwm",
    "write_table",
]
