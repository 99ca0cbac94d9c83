"""Posteriors as other packages and programs take them: ArviZ, specutils, corner, VOTable, SAMP."""
