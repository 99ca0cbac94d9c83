"""From a spectrum to its verified posterior: one, many, several visits, two stars."""
