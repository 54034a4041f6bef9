"""The same training under many recipes: grid, runs, analysis and page."""
