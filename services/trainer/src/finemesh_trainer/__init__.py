"""Trains the models of finemesh and exports them as bundles that serve the same numbers."""
