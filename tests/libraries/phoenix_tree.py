"""Files shaped as those of the PHOENIX archive, of a narrow band."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
from astropy.io import fits

from maury.libraries.phoenix import WAVELENGTH_FILE, nodes_within

WAVELENGTH = 14990 * np.exp(2e-5 * np.arange(400))
NODES = nodes_within({"teff": (3000, 3200), "logg": (4.5, 5), "m_h": (-0.5, 0.5)})


def truth(node):
    """Flux per Angstrom, shape (400,)."""
    teff, logg, m_h, alpha = astuple(node)
    lines = np.sin(WAVELENGTH * (1 + teff / 1e5)) * (0.3 + 0.1 * m_h + 0.05 * alpha)
    return (1e6 * (teff / 3000) ** 4 * np.exp(lines + 0.1 * logg)).astype(np.float32)


def write_wavelength(root):
    root.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(WAVELENGTH).writeto(root / WAVELENGTH_FILE, checksum=True)


def write_node(root, node, *, checksum=True, flux=None, **keywords):
    path = root / node.path
    path.parent.mkdir(parents=True, exist_ok=True)
    flux = truth(node) if flux is None else flux
    hdu = fits.PrimaryHDU((flux.astype(np.float64) * 1e8).astype(np.float32))
    told = {"PHXTEFF": node.teff, "PHXLOGG": node.logg, "PHXM_H": node.m_h, "PHXALPHA": node.alpha_m}
    for key, value in ({"BUNIT": "erg/s/cm^2/cm"} | told | keywords).items():
        if value is not None:
            hdu.header[key] = value
    hdu.writeto(path, checksum=checksum, overwrite=True)
    return path


def write_tree(root, nodes=NODES):
    write_wavelength(root)
    for node in nodes:
        write_node(root, node)
    return root
