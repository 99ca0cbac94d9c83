"""From labels to pixels: the forward model."""
