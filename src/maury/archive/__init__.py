"""Observed spectra from public archives."""
