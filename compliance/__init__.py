"""MLLOG text to records to rules to scores. It works on anybody's logs and imports nothing else of this project."""
