"""From an estimator's answer to a verified posterior."""
