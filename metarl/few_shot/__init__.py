"""Supervised few-shot learning: learners that adapt by gradient and learners that compare, on the same loop."""
