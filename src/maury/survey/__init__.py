"""Many spectra: a catalogue from files, on a cluster, without anything lost or doubled."""
