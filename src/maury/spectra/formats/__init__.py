"""How files become spectra, and spectra files."""
