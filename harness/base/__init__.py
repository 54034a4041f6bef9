"""What every other room uses: errors with exit codes, paths, text for display, standard error, running programs."""
