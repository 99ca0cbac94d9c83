"""Preparation, featurizers, flows, and the estimator made of them."""
