"""Checkpoints of development runs, in Megatron's sharded format."""
