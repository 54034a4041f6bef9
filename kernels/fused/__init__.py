"""What stands between the products of a model: reference.py specifies it in torch, triton.py is one kernel each."""
