"""Values from logs: loaded submissions, scores, intervals, comparisons, forecasts and the index of published
systems.
"""
