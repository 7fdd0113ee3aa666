"""Offering images to an engine or a server, and recording when each answer came."""
