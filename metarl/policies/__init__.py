"""Policies: parameters to action distributions, over an explicit task axis."""
