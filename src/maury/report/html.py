"""Pages that need nothing beside them: templates, styles, scripts and data in one HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

import maury
from maury.files import finite


def asset(name: str) -> str:
    """Text of a style or script of the templates' folder."""
    return (resources.files("maury") / "report" / "templates" / name).read_text(encoding="utf-8")


def floats(values: NDArray[Any]) -> str:
    """Numbers as base64 of little-endian float32; what is not finite becomes NaN."""
    array = np.asarray(values, dtype="<f4")
    known = np.where(np.isfinite(array), array, np.float32("nan")).astype("<f4")
    return base64.b64encode(known.tobytes()).decode()


def octets(values: NDArray[Any]) -> str:
    """Small whole numbers (0 to 255) as base64."""
    return base64.b64encode(np.asarray(values, dtype=np.uint8).tobytes()).decode()


def render(template: str, title: str, data: dict[str, Any], scripts: tuple[str, ...], **context: Any) -> str:
    """Fill a template; all text in it is escaped, and only the page's own script may run.

    Parameters
    ----------
    template
        Name of a template that extends ``base.html``.
    title
        Of the page.
    data
        For the scripts: numbers, text, and arrays as `floats` and `octets` make them.
    scripts
        Names of scripts, after ``common.js``.
    **context
        For the template.
    """
    # A tenth of a second to import.
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("maury", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = "\n".join(asset(name) for name in ("common.js", *scripts))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # In a script element only "<" can end it or begin a comment; JSON may write it otherwise.
    text = json.dumps(finite(data), separators=(",", ":")).replace("<", "\\u003c")
    return environment.get_template(template).render(
        title=title,
        style=Markup(asset("style.css") + asset("panels.css")),
        script=Markup(script),
        policy=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        data=Markup(text),
        version=maury.__version__,
        **context,
    )
