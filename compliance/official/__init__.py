"""The official checkers, run on copies in processes of their own."""
