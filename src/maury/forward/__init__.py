"""The forward model and the likelihood."""
