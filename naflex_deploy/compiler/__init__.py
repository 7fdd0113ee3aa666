"""From a checkpoint to a bundle: read, export, pass, lower, verify. Needs the ``build`` extra."""
