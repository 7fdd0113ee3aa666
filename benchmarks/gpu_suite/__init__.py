"""Every GPU path compared and timed on the card at hand."""
