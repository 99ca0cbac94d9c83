"""What was found of a spectrum, and how it is kept: data only."""
