"""Simulated observations, and training on them."""
