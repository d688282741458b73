"""The outer loop: meta-gradients and how far the initialization moves along them."""
