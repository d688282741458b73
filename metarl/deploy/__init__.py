"""Adapted policies as a product: adapt to one task, save, load elsewhere, act on plain Gymnasium observations."""
