"""The training: Megatron-core's Llama, its data, warm-up, precision and the run by the rules."""
