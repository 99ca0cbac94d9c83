"""How the code hangs together: rooms, imports between them, circles, floors and lines, of any checkout.

    python benchmarks/structure.py ../before .

A room is a package or module directly under maury; an arrow means that one room imports another (not for types alone). Floors are counted
along the longest way down.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

Arrows = set[tuple[str, str]]


def imports(source: Path) -> Arrows:
    """Return which module imports which, of the package in a folder."""
    code = (
        "import grimp, json; g = grimp.build_graph('maury', exclude_type_checking_imports=True, cache_dir=None); "
        "print(json.dumps([[a, b] for a in g.modules for b in g.find_modules_directly_imported_by(a)]))"
    )
    # In a process of its own: a package of this name may be imported here already.
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(source)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {(a, b) for a, b in json.loads(found.stdout)}


def rooms(arrows: Arrows) -> Arrows:
    """Return which room imports which; the public page, `maury` itself, is none."""
    named = {(a.split(".")[1], b.split(".")[1]) for a, b in arrows if "." in a and "." in b}
    return {(a, b) for a, b in named if a != b}


def circles(arrows: Arrows) -> list[list[str]]:
    """Return the groups whose members all import one another, if only through others."""
    below: dict[str, set[str]] = {}
    for a, b in arrows:
        below.setdefault(a, set()).add(b)

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        ahead = set(below.get(start, ()))
        while ahead:
            found |= ahead
            ahead = {b for a in ahead for b in below.get(a, ())} - found
        return found

    reach = {a: reached(a) for a in below}
    groups = {tuple(sorted(b for b in reach[a] if a in reach.get(b, ()))) for a in below if a in reach[a]}
    return [list(group) for group in sorted(groups)]


def floors(arrows: Arrows) -> int:
    """Return the longest way down, of arrows without circles."""

    @cache
    def height(room: str) -> int:
        return 1 + max((height(b) for a, b in arrows if a == room), default=0)

    return max(height(a) for a, _ in arrows)


def lines(folder: Path) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in folder.rglob("*.py"))


def structure(checkout: Path) -> dict[str, Any]:
    modules = imports(checkout / "src")
    # Everything may import the version from the public page.
    modules = {(a, b) for a, b in modules if "maury" not in (a, b)}
    between = rooms(modules)
    round_rooms = circles(between)
    return {
        "modules": len({name for arrow in modules for name in arrow}),
        "imports": len(modules),
        "rooms": len({name for arrow in between for name in arrow}),
        "arrows": len(between),
        "circles_of_modules": circles(modules),
        "circles_of_rooms": round_rooms,
        "floors": None if round_rooms else floors(between),
        "lines": {"src": lines(checkout / "src"), "tests": lines(checkout / "tests")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkouts", nargs="+", type=Path)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    text = json.dumps([structure(checkout) for checkout in given.checkouts], indent=1)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
