"""Rollouts: episodes of many tasks at once, and what policy gradients need of them."""
