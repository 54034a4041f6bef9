"""From benchmark.yaml to one checked configuration, the numbers that follow from it, and the profile that fits a
machine.
"""
