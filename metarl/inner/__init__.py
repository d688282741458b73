"""The inner loop: one gradient step, adaptation, and the rules that move parameters."""
