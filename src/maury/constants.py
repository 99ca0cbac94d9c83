"""Constants of nature that more than one layer needs."""

C_KMS = 299792.458
"""Speed of light, km/s (exact)."""
