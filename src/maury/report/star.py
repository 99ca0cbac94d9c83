"""A star's report: one HTML page that says whether to believe its posterior, and shows why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maury.display import digits_for, number
from maury.report.citations import citations
from maury.report.elements import by_number, correlations, element_rows, is_element
from maury.report.evidence import checks, evidence
from maury.report.html import render
from maury.report.observed import chip_names, lines_of, spectrum_data
from maury.report.panels import panels
from maury.report.svg import Sample, corner, histogram, limits, long, marginal, short
from maury.report.tables import compared_rows
from maury.report.verdict import upper_limits, verdict

if TYPE_CHECKING:
    from maury.posterior.result import Posterior

Array = NDArray[np.float64]


def star_page(posterior: Posterior) -> str:
    """Return the report of one star as a self-contained HTML page.

    Parameters
    ----------
    posterior
        From `maury.infer`, or read again with `maury.posterior.store.load`.

    Returns
    -------
    str
        A page that loads nothing, in which all text of the file is escaped.

    Examples
    --------
    >>> Path("star.html").write_text(star_page(maury.infer("star.fits")))  # doctest: +SKIP
    """
    from maury.posterior.store import provenance_of

    origin = provenance_of(posterior)
    spectrum = posterior.spectrum
    name = spectrum.id or Path(spectrum.path).name or "Star"
    samples = _samples(posterior)
    names = posterior.stellar.names
    elements = element_rows(posterior)
    observed = {row["element"]: row["observed"] for row in elements if row["observed"]}
    return render(
        "star.html",
        f"{name}: maury",
        {"spectrum": spectrum_data(posterior) | {"elements": observed}, "record": posterior.to_json()},
        ("spectrum.js",),
        name=name,
        file=Path(spectrum.path).name,
        verdict=verdict(posterior),
        facts=_facts(posterior),
        labels=_label_rows(posterior),
        has_total=bool(posterior.systematic),
        elements=[row | {"picture": _markup(row["picture"])} for row in elements],
        by_number=_markup(by_number(posterior.diagnostics.abundances)) if elements else "",
        correlations=_markup(correlations(posterior)) if elements else "",
        comparison=_comparison(posterior),
        compared=compared_rows(posterior.diagnostics.compared),
        corner=_corner(posterior, samples),
        marginals=_marginals(posterior, samples),
        checks=checks(posterior),
        evidence=evidence(posterior),
        lines=lines_of(posterior),
        panels=[(panel.title, _markup(panel.svg)) for panel in panels(posterior)],
        chips=chip_names(posterior),
        models=posterior.diagnostics.models,
        residuals=posterior.diagnostics.residuals,
        provenance=_provenance(posterior, origin),
        cited=citations(posterior, origin),
        n_labels=len(names),
        method=posterior.method,
    )


def _samples(posterior: Posterior) -> list[Sample]:
    """Return the verified draws and the flow's, of the stellar labels."""
    n = len(posterior.stellar)
    columns = [posterior.labels.index(name) for name in posterior.stellar.names]
    verified = Sample("verified", posterior.draws[:, columns], posterior.weights)
    if posterior.flow_draws.shape[1] != n or not len(posterior.flow_draws):
        return [verified]
    return [
        verified,
        Sample(
            "flow", posterior.flow_draws, np.full(len(posterior.flow_draws), 1 / len(posterior.flow_draws))
        ),
    ]


def _facts(posterior: Posterior) -> list[tuple[str, str]]:
    spectrum = posterior.spectrum
    used = 100 * len(posterior.fit.pixels) / spectrum.grid.n_pixels
    facts = [("Signal-to-noise ratio", number(spectrum.snr, 0)), ("Pixels used", f"{used:.0f} %")]
    facts += [("k-hat", number(posterior.khat, 2)), ("Effective draws", number(posterior.ess, 0))]
    facts += [("χ²/n with model error", number(posterior.fit.rchi2_jitter, 2))]
    return [*facts, ("Time", f"{posterior.seconds:.1f} s")]


def _entry(name: str, entry: dict[str, Any], unit: str, note: str = "") -> dict[str, str]:
    plus, minus = entry["p84"] - entry["p50"], entry["p50"] - entry["p16"]
    digits = max(digits_for(plus), digits_for(minus)) if plus > 0 and minus > 0 else digits_for(plus)
    return {
        "name": name,
        "short": short(name),
        "long": long(name),
        "median": number(entry["p50"], digits),
        "plus": number(plus, digits),
        "minus": number(minus, digits),
        "total_plus": "",
        "total_minus": "",
        "low": number(entry["p16"], digits),
        "high": number(entry["p84"], digits),
        "unit": unit,
        "note": note,
    }


def _label_rows(posterior: Posterior) -> list[dict[str, str]]:
    rows, between, certificate = [], posterior.systematic, posterior.certificate
    limits_of = upper_limits(posterior)
    for name, entry in posterior.summary().items():
        if is_element(posterior, name):
            continue
        note = ""
        if name in limits_of:
            note = f"below {number(limits_of[name], 1)} km/s with 95 % probability"
        elif name == "v_rad":
            note = {
                "observatory": "in the frame of the observatory",
                "barycentric": "at the barycentre",
                "rest": "left after the file's own shift to rest",
            }.get(posterior.spectrum.frame, "")
        elif name == "jitter":
            note = "a nuisance: what the model cannot explain, as a fraction of the continuum"
        if told := certificate.get(name):
            tail = "" if told.khat is None else f", k-hat {number(told.khat, 2)}"
            note += ("; " if note else "") + f"Monte-Carlo error of the median {told.mcse['p50']:.1g}{tail}"
        row = _entry(name, entry, entry["unit"], note)
        if name in between:
            wide = between[name]
            digits = digits_for(wide.std)
            row |= {
                "total_plus": number(max(wide.p84 - entry["p50"], 0), digits),
                "total_minus": number(max(entry["p50"] - wide.p16, 0), digits),
            }
        rows.append(row | _as_limit(limits_of.get(name)))
        if name == "v_rad" and posterior.v_bary is not None:
            rows.append(_entry("v_bary", posterior.v_bary, "km/s", "v rad with the barycentric correction"))
    return rows


def _as_limit(limit: float | None) -> dict[str, str]:
    """Return what a row shows of a label of which only an upper limit is known."""
    if limit is None:
        return {}
    return {"median": f"< {number(limit, 1)}", "plus": "", "minus": "", "low": "", "high": ""}


def _comparison(posterior: Posterior) -> list[dict[str, str]]:
    """Flow against verified, label by label."""
    from maury.posterior.summary import summarise

    samples = _samples(posterior)
    if len(samples) < 2:
        return []
    flow = summarise(posterior.stellar, samples[1].draws, samples[1].weights)
    rows = []
    for name, entry in posterior.summary().items():
        if name not in flow:
            continue
        other = flow[name]
        digits = digits_for(entry["std"])
        rows.append(
            {
                "short": short(name),
                "unit": entry["unit"],
                "flow": f"{number(other['p50'], digits)} ± {number(other['std'], digits)}",
                "verified": f"{number(entry['p50'], digits)} ± {number(entry['std'], digits)}",
                "shift": number((other["p50"] - entry["p50"]) / max(entry["std"], 1e-300), 1),
                "width": number(other["std"] / max(entry["std"], 1e-300), 2),
            }
        )
    return rows


def _corner(posterior: Posterior, samples: list[Sample]) -> str:
    """Corner plot of the star's labels, without the elements that were asked for beside them."""
    stellar = posterior.stellar
    kept = [i for i, name in enumerate(stellar.names) if not is_element(posterior, name)]
    if len(kept) < len(stellar):
        samples = [Sample(s.style, s.draws[:, kept], s.weights) for s in samples]
        stellar = stellar.select(stellar.names[i] for i in kept)
    box = limits(samples, stellar.low.numpy(), stellar.high.numpy())
    return _markup(corner(samples, stellar.names, [label.unit for label in stellar], box))


def _markup(svg: str) -> str:
    from markupsafe import Markup

    return Markup(svg)


def _marginals(posterior: Posterior, samples: list[Sample]) -> list[dict[str, Any]]:
    """Prior against posterior of each label: densities over the posterior's range, and its place in the prior's."""
    import torch

    everything = [Sample("verified", posterior.draws, posterior.weights)]
    labels, summary = posterior.labels, posterior.summary()
    stellar = posterior.stellar
    out = []
    for i, label in enumerate(labels):
        if is_element(posterior, label.name):
            continue
        mine = [everything[0]]
        if len(samples) > 1 and label.name in stellar.names:
            column = samples[1].draws[:, stellar.index(label.name)]
            padded = np.zeros((len(column), len(labels)))
            padded[:, i] = column
            mine.append(Sample("flow", padded, samples[1].weights))
        low, high = label.prior.low, label.prior.high
        ends = limits(
            [Sample(s.style, s.draws[:, i : i + 1], s.weights) for s in mine],
            np.array([low]),
            np.array([high]),
        )[0]
        bins = len(histogram(posterior.draws[:, i], posterior.weights, *ends))
        middle = ends[0] + (np.arange(bins) + 0.5) / bins * (ends[1] - ends[0])
        density = label.prior.log_prob(torch.from_numpy(middle)).exp().numpy() * (ends[1] - ends[0]) / bins
        entry = summary[label.name]
        start, stop = (100 * (entry[q] - low) / (high - low) for q in ("p16", "p84"))
        out.append(
            {
                "short": short(label.name),
                "long": long(label.name),
                "unit": label.unit,
                "svg": _markup(
                    marginal(
                        mine, density, i, ends, f"Density of {short(label.name)}: posterior, flow, prior"
                    )
                ),
                "start": round(start, 2),
                "width": round(max(stop - start, 0), 2),
                "low": f"{low:g}".replace("-", "−"),
                "high": f"{high:g}".replace("-", "−"),
                "prior": _prior_words(label.prior),
                "shrink": number(label.prior.std / max(entry["std"], 1e-300), 0),
            }
        )
    return out


def _prior_words(prior: Any) -> str:
    words = {"uniform": "uniform", "log-uniform": "uniform in the logarithm"}
    if prior.kind == "truncated-normal":
        return f"normal, {prior.mean:g} ± {prior.sigma:g}, cut at the bounds"
    return words[prior.kind]


def _provenance(posterior: Posterior, origin: dict[str, Any]) -> list[tuple[str, str]]:
    spectrum = posterior.spectrum
    rows = [("File", spectrum.path or "none: a spectrum in memory")]
    if spectrum.index:
        rows.append(("Place in the file", str(spectrum.index)))
    rows.append(("Object", spectrum.id or "not named"))
    rows += [
        (key, str(spectrum.meta[field]))
        for key, field in (
            ("Right ascension", "ra"),
            ("Declination", "dec"),
            ("Line-spread function", "lsf_source"),
        )
        if field in spectrum.meta
    ]
    if spectrum.v_correction is not None:
        rows.append(("Barycentric correction", f"{number(spectrum.v_correction, 3)} km/s"))
    version = origin.get("model_version")
    rows.append(("Model", posterior.model + (f", weights {version}" if version else "")))
    rows += [
        (title, str(origin[key]))
        for title, key in (("Library", "reference"), ("Resolution", "resolution"), ("Flux", "flux"))
        if origin.get(key)
    ]
    rows += [(f"Held: {name}", f"{value:g}") for name, value in posterior.held.items()]
    if origin.get("seed") is not None:
        rows.append(("Seed", str(origin["seed"])))
    versions = origin.get("versions", {})
    rows.append(("Versions", ", ".join(f"{k} {v}" for k, v in versions.items()) or "not known"))
    rows.append(("Likelihood evaluations", f"{posterior.evaluations:,}"))
    rows.append(("Seconds", f"{posterior.seconds:.1f}"))
    return rows
