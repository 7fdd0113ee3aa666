"""Embedding many files into one output: what the command ``embed`` runs, and a service can run too."""
