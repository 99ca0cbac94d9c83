"""What a label measures: the one table of names, units, symbols, UCDs, decimals and roles.

Whatever writes a label (tables, catalogues, figures, pages, docs/labels.md) looks it up here: `quantity` takes any name, with the number of
a second star or of a visit behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum


class Role(StrEnum):
    """What a label is of, and so what it is shared by."""

    stellar = "stellar"
    """Of the star: the same in every visit."""
    velocity = "velocity"
    """Of the visit."""
    nuisance = "nuisance"
    """Of the model or the instrument: nobody's interest, integrated out."""


@dataclass(frozen=True)
class Quantity:
    """What a label measures.

    Attributes
    ----------
    name
        As columns and code have it; SDSS astra's names.
    unit
        As astropy and VOUnit write it; ``dex`` of logarithms.
    symbol
        As figures write it (mathtext).
    short, long
        As pages write it, and in words.
    ucd
        Unified Content Descriptor, UCD1+ of the IVOA.
    digits
        Decimals in tables.
    role
        Star, visit or nuisance.
    star, visit
        Number of the star (from 2 on) or of the visit (from 1 on) that it belongs to; None where there is one.
    """

    name: str
    unit: str = ""
    symbol: str = ""
    short: str = ""
    long: str = ""
    ucd: str = "phys"
    digits: int = 3
    role: Role = Role.stellar
    star: int | None = None
    visit: int | None = None

    @property
    def axis(self) -> str:
        """What a figure writes beside an axis: symbol and unit."""
        symbol = self.symbol or self.name
        return f"{symbol} [{self.unit}]" if self.unit else symbol

    @property
    def title(self) -> str:
        """What a page writes beside an axis: short name and unit."""
        short = self.short or self.name
        return f"{short} [{self.unit}]" if self.unit else short

    @property
    def is_abundance(self) -> bool:
        """Whether it is of the composition, which stars that formed together share."""
        return self.ucd.startswith("phys.abund")

    def of(self, *, star: int | None = None, visit: int | None = None) -> Quantity:
        """Return the same of another star or of a visit: ``teff`` of star 2 is ``teff_2``, ``v_rad`` of visit 3 ``v_rad_3``.

        Raises
        ------
        ValueError
            If it is numbered already, or both or neither are given: a name has room for one number.
        """
        if (star is None) == (visit is None) or self.star or self.visit:
            raise ValueError(f"{self.name}: needs the number of a star or of a visit, and takes one")
        number = star if visit is None else visit
        whose = (
            f"of visit {visit}" if star is None else "of the companion" if star == 2 else f"of star {star}"
        )
        return replace(
            self,
            name=f"{self.name}_{number}",
            symbol=f"{self.symbol or self.name} ({number})",
            short=f"{self.short or self.name} ({number})",
            long=f"{self.long or self.name} {whose}",
            star=star,
            visit=visit,
        )


# Elements that have lines in spectra of cool and hot stars, by atomic number.
ELEMENTS = {
    "He": "helium", "Li": "lithium", "C": "carbon", "N": "nitrogen", "O": "oxygen", "Na": "sodium", "Mg": "magnesium",
    "Al": "aluminium", "Si": "silicon", "P": "phosphorus", "S": "sulphur", "K": "potassium", "Ca": "calcium", "Sc": "scandium",
    "Ti": "titanium", "V": "vanadium", "Cr": "chromium", "Mn": "manganese", "Fe": "iron", "Co": "cobalt", "Ni": "nickel",
    "Cu": "copper", "Zn": "zinc", "Ge": "germanium", "Rb": "rubidium", "Sr": "strontium", "Y": "yttrium", "Zr": "zirconium",
    "Ba": "barium", "La": "lanthanum", "Ce": "cerium", "Nd": "neodymium", "Eu": "europium", "Yb": "ytterbium",
}  # fmt: skip
_BESIDE = {"m": ("M", "all metals"), "fe": ("Fe", "iron"), "h": ("H", "hydrogen")}
_VELOCITY = "spect.dopplerVeloc.opt"


def _abundances() -> Iterator[Quantity]:
    """[X/M], [X/Fe] and [X/H] of every element."""
    for symbol, element in ELEMENTS.items():
        for stem, (below, other) in _BESIDE.items():
            if symbol == below:
                continue
            text = f"[{symbol}/{below}]"
            yield Quantity(
                f"{symbol.lower()}_{stem}",
                "dex",
                text,
                text,
                f"Abundance of {element} over {other}, relative to the Sun's",
                "phys.abund.Fe" if (symbol, below) == ("Fe", "H") else "phys.abund",
            )


TABLE: tuple[Quantity, ...] = (
    Quantity("teff", "K", r"$T_{\rm eff}$", "Teff", "Effective temperature", "phys.temperature.effective", 0),
    Quantity("logg", "dex", r"$\log g$", "log g", "Surface gravity", "phys.gravity"),
    Quantity("m_h", "dex", "[M/H]", "[M/H]", "Metallicity", "phys.abund.Z"),
    Quantity("alpha_m", "dex", r"[$\alpha$/M]", "[α/M]", "Alpha enhancement", "phys.abund"),
    Quantity("v_micro", "km/s", r"$v_{\rm micro}$", "v micro", "Microturbulence", "phys.veloc.microTurb", 2),
    Quantity("v_macro", "km/s", r"$v_{\rm macro}$", "v macro", "Macroturbulence", "phys.veloc", 2),
    Quantity("v_sini", "km/s", r"$v\,\sin i$", "v sin i", "Projected rotation", "phys.veloc.rotat", 2),
    Quantity("v_rad", "km/s", r"$v_{\rm rad}$", "v rad", "Radial velocity", _VELOCITY, 2, Role.velocity),
    Quantity(
        "v_bary", "km/s", r"$v_{\rm bary}$", "v bary", "Barycentric velocity", _VELOCITY, 2, Role.velocity
    ),
    Quantity(
        "flux_ratio",
        "",
        "$F_2/F_1$",
        "F₂/F₁",
        "Flux of the companion over the first star's",
        "phot.flux;arith.ratio",
    ),
    Quantity(
        "c12_c13",
        "",
        r"$^{12}$C/$^{13}$C",
        "¹²C/¹³C",
        "Ratio of the isotopes of carbon",
        "phys.abund;arith.ratio",
        1,
    ),
    *_abundances(),
    Quantity(
        "jitter", "", "jitter", "jitter", "Model error, of the continuum", "stat.error", 4, Role.nuisance
    ),
)
_BY_NAME = {entry.name: entry for entry in TABLE}
_NUMBERED = re.compile(r"(.+)_([1-9]\d*)")
# What each visit has of its own; a number behind it alone does not tell whether it is a visit's or a star's.
_OF_VISITS = ("v_bary", "jitter")


def is_known(name: str) -> bool:
    """Whether a name is in the table, with or without a number."""
    numbered = _NUMBERED.fullmatch(name)
    return name in _BY_NAME or (numbered is not None and numbered[1] in _BY_NAME)


def quantity(name: str) -> Quantity:
    """Return what a label of this name measures: ``teff``, ``v_rad_2``, ``mg_fe``; of a name that is not known, its name alone.

    A number is taken as the star's, but of ``v_bary`` and ``jitter``, which a spectrum has one of, as the visit's.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    numbered = _NUMBERED.fullmatch(name)
    if numbered and numbered[1] in _BY_NAME:
        known, number = _BY_NAME[numbered[1]], int(numbered[2])
        as_visit = known.name in _OF_VISITS or number == 1
        return known.of(visit=number) if as_visit else known.of(star=number)
    return Quantity(name)


def table() -> str:
    """Return the table of docs/labels.md; the abundances, which are alike, as three lines."""
    lines = [
        "| label | unit | symbol | what it is | role | decimals | UCD |",
        "|---|---|---|---|---|---|---|",
    ]
    alike = {f"{symbol.lower()}_{stem}" for symbol in ELEMENTS for stem in _BESIDE}
    for entry in TABLE:
        if entry.name not in alike:
            cells = (
                f"`{entry.name}`",
                entry.unit,
                entry.short,
                entry.long,
                entry.role,
                entry.digits,
                f"`{entry.ucd}`",
            )
            lines.append(f"| {' | '.join(map(str, cells))} |")
    for stem, (below, other) in _BESIDE.items():
        example = _BY_NAME[f"mg_{stem}"]
        cells = (
            f"`mg_{stem}` ...", "dex", f"[X/{below}]", f"Abundance of an element over {other}, relative to the Sun's",
            example.role, example.digits, f"`{example.ucd}`",
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
