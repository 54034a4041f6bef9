"""The training data: fetch, build and verify C4 and the proxy's corpus."""
