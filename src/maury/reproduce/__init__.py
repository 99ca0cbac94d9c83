"""The paper's experiments, each with one command: ``maury reproduce sine|three|five``."""
