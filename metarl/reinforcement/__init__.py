"""Policies that meta-learn to adapt: algorithms by name, what they collect, and how they are judged."""
