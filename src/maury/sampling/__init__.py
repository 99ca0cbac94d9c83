"""From any log density and proposal to verified draws; it knows no star."""
