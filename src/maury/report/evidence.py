"""The evidence for and against a posterior, in figures and words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maury.display import number
from maury.posterior.flags import FLAGS

if TYPE_CHECKING:
    from maury.posterior.result import Posterior


def evidence(posterior: Posterior) -> list[dict[str, Any]]:
    """Return the figures that say whether the posterior is right, each with what it means."""
    misfit = posterior.diagnostics.misfit
    nested = posterior.method == "nested"
    limit, fits = FLAGS["khat"]["khat"], FLAGS["poor_fit"]["rchi2"]
    khat = (
        f"Above {limit:g} the importance weights cannot be trusted: nested sampling took over, unless the budget ended it."
        if posterior.khat > limit
        else f"Below {limit:g}: the importance weights can be trusted, and with them intervals and evidence."
    )
    rows: list[dict[str, Any]] = [
        {
            "name": "Pareto k-hat",
            "value": number(posterior.khat, 2),
            "good": posterior.khat <= limit,
            "text": khat,
        },
        {
            "name": "Effective sample size",
            "value": f"{posterior.ess:.0f} of {len(posterior.draws)}",
            "good": None if nested else posterior.ess >= 100,
            "text": "As many independent draws would tell as much. Some hundreds pin a median to a few percent of its error.",
        },
        {
            "name": "ln evidence",
            "value": number(posterior.log_evidence, 1),
            "good": None,
            "text": "Of this model, for the flux in the file's units; only differences between models of the same pixels mean anything.",
        },
        {
            "name": "χ²/n with the file's errors",
            "value": number(posterior.fit.rchi2, 2),
            "good": None,
            "text": "1 if model and errors were perfect; large on bright stars, whose errors are smaller than any library's own.",
        },
        {
            "name": "χ²/n with all errors",
            "value": number(posterior.fit.rchi2_jitter, 2),
            "good": posterior.fit.rchi2_jitter <= fits,
            "text": "With the model error that was fitted; near 1 where the noise model holds.",
        },
    ]
    for value, name, text in (
        (
            posterior.p_predictive,
            "Predictive checks",
            "The smallest p-value of all checks below, corrected for their number",
        ),
        (posterior.p_novelty, "Novelty", "Share of simulated spectra that look as unusual to the network"),
    ):
        if misfit is not None and value is not None:
            rows.append(
                {
                    "name": name,
                    "value": f"p = {value:.2g}",
                    "good": value >= misfit.false_alarm,
                    "text": f"{text}; below {misfit.false_alarm:g} it is flagged.",
                }
            )
    return rows


def checks(posterior: Posterior) -> list[dict[str, Any]]:
    """Posterior predictive checks by chip and by line."""
    misfit = posterior.diagnostics.misfit
    if misfit is None:
        return []
    limit = misfit.false_alarm / max(2 * len(misfit.checks), 1)
    return [
        {
            "name": c.name,
            "pixels": c.n_pixels,
            "chi2": number(c.chi2, 2),
            "p_scatter": f"{c.p_scatter:.2g}",
            "bad_scatter": c.p_scatter < limit,
            "correlation": number(c.correlation, 2),
            "p_correlation": f"{c.p_correlation:.2g}",
            "bad_correlation": c.p_correlation < limit,
        }
        for c in misfit.checks
    ]
