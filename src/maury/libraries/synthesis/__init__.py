"""Synthetic spectra by an existing engine: atmospheres, lines, calibration on standards, a grid. Used only when a library is built."""
