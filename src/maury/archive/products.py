"""Where SDSS keeps APOGEE's spectra: the path of each product of each release, from what identifies it.

Paths follow the survey's data model (data.sdss.org/datamodel): MWM_ASTRA, APOGEE_REDUX and APOGEE_ASPCAP of DR17 and DR19.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from maury.errors import DownloadError
from maury.names import meant

BASE = "https://data.sdss.org/sas"
_SAFE = re.compile(r"[A-Za-z0-9+._-]+")


@dataclass(frozen=True)
class Product:
    """A kind of file of a release.

    Attributes
    ----------
    kind, release
        Such as ``"apVisit"`` and ``"dr17"``.
    template
        Path below the archive's base; ``{prefix}`` is ``ap`` or ``as`` by telescope.
    needs
        Columns of a catalogue that the path is made of.
    """

    kind: str
    release: str
    template: str
    needs: tuple[str, ...]

    def path(self, row: Mapping[str, Any]) -> PurePosixPath:
        """Path of the file that a catalogue's row describes.

        Raises
        ------
        DownloadError
            If a column is missing, empty, or of a form that no such file has.
        """
        values: dict[str, Any] = {}
        for name in self.needs:
            value = row.get(name)
            text = "" if value is None else str(value).strip()
            if not text or text in ("--", "nan"):
                raise DownloadError(f"{self.kind} of {self.release}: a row without {name}; {self.wants}")
            values[name] = _number(text, name) if name in _NUMBERS else _safe(text, name)
        if "telescope" in values:
            values["prefix"] = "as" if str(values["telescope"]).startswith("lco") else "ap"
        if "healpix" in values:
            values["healpix_group"] = values["healpix"] // 1000
        if "sdss_id" in values:
            values["group_a"], values["group_b"] = values["sdss_id"] // 100 % 100, values["sdss_id"] % 100
        return PurePosixPath(self.template.format(**values))

    @property
    def wants(self) -> str:
        """What a catalogue must have."""
        return f"a catalogue needs the columns {', '.join(self.needs)}"


_NUMBERS = {"fiber", "mjd", "healpix", "sdss_id"}


def _number(text: str, name: str) -> int:
    try:
        return int(float(text))
    except ValueError:
        raise DownloadError(f"{name} {text!r}: must be a whole number") from None


def _safe(text: str, name: str) -> str:
    """Refuse what would lead out of the archive's folders."""
    if not _SAFE.fullmatch(text) or text.startswith("."):
        raise DownloadError(f"{name} {text!r}: no such name in the archive")
    return text


_REDUX17 = "dr17/apogee/spectro/redux/dr17"
_REDUX19 = "dr19/spectro/apogee/redux/1.3"
_ASTRA19 = "dr19/spectro/astra/0.6.0/spectra"
PRODUCTS = {
    (p.release, p.kind): p
    for p in (
        Product(
            "apVisit",
            "dr17",
            _REDUX17 + "/visit/{telescope}/{field}/{plate}/{mjd}/{prefix}Visit-dr17-{plate}-{mjd}-{fiber:03d}.fits",
            ("telescope", "field", "plate", "mjd", "fiber"),
        ),
        Product(
            "apStar",
            "dr17",
            _REDUX17 + "/stars/{telescope}/{field}/{prefix}Star-dr17-{apogee_id}.fits",
            ("telescope", "field", "apogee_id"),
        ),
        Product(
            "aspcapStar",
            "dr17",
            "dr17/apogee/spectro/aspcap/dr17/synspec_rev1/{telescope}/{field}/aspcapStar-dr17-{apogee_id}.fits",
            ("telescope", "field", "apogee_id"),
        ),
        Product(
            "apVisit",
            "dr19",
            _REDUX19
            + "/visit/{telescope}/{field}/{plate}/{mjd}/{prefix}Visit-1.3-{telescope}-{plate}-{mjd}-{fiber:03d}.fits",
            ("telescope", "field", "plate", "mjd", "fiber"),
        ),
        Product(
            "apStar",
            "dr19",
            _REDUX19 + "/stars/{telescope}/{healpix_group}/{healpix}/{prefix}Star-1.3-{telescope}-{apogee_id}.fits",
            ("telescope", "healpix", "apogee_id"),
        ),
        Product(
            "mwmStar",
            "dr19",
            _ASTRA19 + "/star/{group_a:02d}/{group_b:02d}/mwmStar-0.6.0-{sdss_id}.fits",
            ("sdss_id",),
        ),
        Product(
            "mwmVisit",
            "dr19",
            _ASTRA19 + "/visit/{group_a:02d}/{group_b:02d}/mwmVisit-0.6.0-{sdss_id}.fits",
            ("sdss_id",),
        ),
    )
}  # fmt: skip


def product(release: str, kind: str) -> Product:
    """Find a product.

    Raises
    ------
    DownloadError
        If there is none; lists those that there are.
    """
    try:
        return PRODUCTS[release, kind]
    except KeyError:
        known = [f"{k} of {r}" for r, k in PRODUCTS]
        raise DownloadError(
            f"{kind} of {release}: not known; {meant(f'{kind} of {release}', known)}"
        ) from None
