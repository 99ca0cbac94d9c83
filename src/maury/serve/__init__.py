"""``maury serve``: a page in the browser of the user's own machine. Needs the optional packages of ``maury[serve]``."""
