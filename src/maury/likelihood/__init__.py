"""From pixels to a log probability: noise, residuals, continuum, and labels that are tied."""
