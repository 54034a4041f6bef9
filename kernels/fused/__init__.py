"""The operations between a model's GEMMs: reference.py specifies each one, triton.py has its GPU kernel."""
