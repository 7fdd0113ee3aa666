"""Sends images to an engine or a server, and records when each answer arrives."""
