"""Losses and rules that wrap others: what an algorithm minimizes on its way can itself be meta-learned."""
