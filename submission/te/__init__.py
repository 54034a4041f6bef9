"""Transformer Engine's linears for the FP8 baseline, and corrections of its CustomRecipe."""
