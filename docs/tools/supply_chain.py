"""What maury is made of: licences of everything that it installs, and a bill of materials for the wheel.

Usage: python docs/tools/supply_chain.py [--check]

Writes docs/licences.md and sbom.cdx.json (CycloneDX 1.6, put into the wheel's metadata by hatchling) from the packages that are installed
beside this Python; with --check, only says whether a dependency is missing in them. ``make supply-chain`` calls it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LICENCES, SBOM = ROOT / "docs" / "licences.md", ROOT / "sbom.cdx.json"
# Whose users install them: what tests and documentation need is not maury's to hand out.
EXTRAS = ("train", "mcmc", "interop", "parquet", "serve", "survey")
# Of packages whose metadata hold the whole text, or say it in words: how the text begins, and what it is.
WORDS = {
    "apache software license": "Apache-2.0", "apache license": "Apache-2.0", "apache 2.0": "Apache-2.0",
    "mit license": "MIT", "isc license": "ISC", "the mit license": "MIT", "expat license": "MIT", "bsd license": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause", "3-clause bsd": "BSD-3-Clause", "new bsd": "BSD-3-Clause", "bsd": "BSD-3-Clause",
    "python software foundation license": "PSF-2.0", "mozilla public license 2.0": "MPL-2.0", "the unlicense": "Unlicense",
}  # fmt: skip
# What the wheel holds beside code of its own.
SHIPPED = (
    (
        "kurucz-apogee",
        "src/maury/assets/kurucz-apogee",
        "MIT",
        "emulator computed from the networks of binspec",
    ),
    (
        "btsettl-apogee",
        "src/maury/assets/btsettl-apogee",
        "BSD-3-Clause",
        "emulator computed from BT-Settl spectra",
    ),
    (
        "marcs-apogee",
        "src/maury/assets/marcs-apogee",
        "BSD-3-Clause",
        "emulator computed from spectra of Turbospectrum on MARCS atmospheres",
    ),
)


@dataclass(frozen=True)
class Package:
    """An installed package: its name, version, licence and home, and the extra it is wanted for (empty: always)."""

    name: str
    version: str
    licence: str
    home: str
    extra: str


def by_text(text: str) -> str:
    """Return the licence whose text this is; empty if it is none of the usual ones."""
    text = " ".join(text.split())
    if "Redistribution and use in source and binary forms" in text:
        return (
            "BSD-3-Clause" if "Neither the name" in text or "be used to endorse" in text else "BSD-2-Clause"
        )
    if "Permission is hereby granted, free of charge" in text:
        return "MIT"
    return "Apache-2.0" if "Apache License" in text else ""


def licence_of(package: Distribution) -> str:
    """Return a licence as an SPDX expression where that can be told, otherwise in the package's words."""
    told = package.metadata
    if expression := told.get("License-Expression"):
        return str(expression)
    classifiers = [
        c.rsplit(" :: ", 1)[1] for c in told.get_all("Classifier", []) if c.startswith("License ::")
    ]
    text = told.get("License") or ""
    words = [*text.strip().splitlines()[:1], *(re.sub(r"\s*\(.*\)", "", c) for c in classifiers)]
    for line in words:
        if found := next((spdx for start, spdx in WORDS.items() if line.lower().startswith(start)), ""):
            return found
    files = [f for f in package.files or () if re.match(r"(?i)(licen[cs]e|copying)", f.name)]
    for whole in (text, *(f.read_text(encoding="utf-8") for f in files)):
        if found := by_text(whole):
            return found
    return words[0] if words and len(words[0]) < 40 else "see its files"


def home_of(package: Distribution) -> str:
    """Return a package's address."""
    urls = dict(url.split(", ", 1) for url in package.metadata.get_all("Project-URL", []) if ", " in url)
    known = {name.lower(): url for name, url in urls.items()}
    for name in ("homepage", "home", "source", "source code", "repository", "github"):
        if name in known:
            return known[name]
    return str(package.metadata.get("Home-page") or f"https://pypi.org/project/{package.metadata['Name']}/")


def installed(wanted: Iterable[str], extra: str, found: dict[str, Package]) -> None:
    """Add the packages that are wanted, and all that they want."""
    queue = [Requirement(line) for line in wanted]
    while queue:
        want = queue.pop(0)
        if want.marker is not None and not any(
            want.marker.evaluate({"extra": e}) for e in want.extras | {""}
        ):
            continue
        name = canonicalize_name(want.name)
        if name in found or name == "maury":
            continue
        try:
            package = distribution(want.name)
        except PackageNotFoundError:
            continue
        version = package.version.split("+")[0]
        found[name] = Package(name, version, licence_of(package), home_of(package), extra)
        queue += [Requirement(line) for line in package.requires or ()]


def packages() -> list[Package]:
    """Return what maury and its extras install, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, Package] = {}
    installed(project["dependencies"], "", found)
    for extra in EXTRAS:
        installed(project["optional-dependencies"][extra], extra, found)
    return sorted(found.values(), key=lambda package: package.name)


def page(found: list[Package]) -> str:
    """Return the table of licences."""
    rows = [f"| [{p.name}]({p.home}) | {p.version} | {p.licence} | {p.extra or 'always'} |" for p in found]
    return "\n".join(
        [
            "# Licences",
            "",
            "maury is BSD-3-Clause. This is what it installs, with the versions that the tests run with and the licences that the",
            "packages tell; `make supply-chain` writes the page. The same list is in the wheel as a bill of materials (CycloneDX, in",
            "`maury-*.dist-info/sboms/`).",
            "",
            "| package | version | licence | wanted for |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def bill(found: list[Package], version: str) -> dict[str, Any]:
    """Return the bill of materials: what the wheel holds, and what it depends on."""

    def licences(words: str) -> list[dict[str, Any]]:
        spdx = re.fullmatch(r"[A-Za-z0-9.+-]+", words)
        if (spdx and "-" in words) or words in ("MIT", "ISC"):
            return [{"license": {"id": words}}]
        return [{"license": {"name": words}}]

    own = f"pkg:pypi/maury@{version}"
    shipped = [
        {
            "type": "machine-learning-model",
            "bom-ref": name,
            "name": name,
            "version": version,
            "description": told,
            "licenses": licences(licence),
        }
        for name, _, licence, told in SHIPPED
    ]
    needed = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{p.name}@{p.version}",
            "purl": f"pkg:pypi/{p.name}@{p.version}",
            "name": p.name,
            "version": p.version,
            "scope": "optional" if p.extra else "required",
            "licenses": licences(p.licence),
        }
        for p in found
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": own,
                "purl": own,
                "name": "maury",
                "version": version,
                "licenses": [{"license": {"id": "BSD-3-Clause"}}],
            }
        },
        "components": shipped + needed,
        "dependencies": [{"ref": own, "dependsOn": [c["bom-ref"] for c in shipped + needed]}],
    }


def missing() -> list[str]:
    """Return the direct dependencies that page or bill do not name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(line for e in EXTRAS for line in project["optional-dependencies"][e]),
    ]
    names = {canonicalize_name(Requirement(line).name) for line in wanted}
    listed = {c["name"] for c in json.loads(SBOM.read_text(encoding="utf-8"))["components"]}
    shown = set(re.findall(r"^\| \[([^\]]+)\]", LICENCES.read_text(encoding="utf-8"), re.MULTILINE))
    return sorted(names - (listed & shown))


def main() -> None:
    """Write both, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if names := missing():
            sys.exit(f"docs/licences.md and sbom.cdx.json lack {', '.join(names)}: run make supply-chain")
        return
    found = packages()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    LICENCES.write_text(page(found), encoding="utf-8")
    SBOM.write_text(json.dumps(bill(found, version), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
