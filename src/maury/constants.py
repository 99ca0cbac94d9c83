"""Numbers that more than one layer needs."""

C_KMS = 299792.458
"""Speed of light, km/s (exact)."""
# Likelihoods that an inference may take: with the dearest of them, correlated residuals on 8,000 pixels, half a minute of a core.
BUDGET = 20_000
# Importance draws a round where their number is not given, and effective ones that are then looked for.
DRAWS, ESS = 220, 200
# Share of good spectra that may be flagged as a misfit, and as novel, unless it is given.
FALSE_ALARM = 0.01
# The shipped model that is taken where none is named, and the one that goes on where it ends, below 3500 K: `auto` chooses between them.
DEFAULT_MODEL = "marcs-apogee"
COOL_MODEL = "btsettl-apogee"
