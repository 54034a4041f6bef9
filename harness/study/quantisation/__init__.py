"""What quantising did to every GEMM of a run, from its diagnostics.jsonl."""
