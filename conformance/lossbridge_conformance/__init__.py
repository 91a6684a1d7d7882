"""Measure what the platforms compute against a certified oracle, and report it."""
