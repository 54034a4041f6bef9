"""All that the submission may import of the harness: configuration, environment, log writer and files."""
