"""What quantising does to operands and products, measured while a linear runs."""
