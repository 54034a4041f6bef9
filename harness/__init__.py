"""The harness: configuration, campaigns, checks, comparisons and reports. It starts processes and reads files; it
never imports torch.
"""
