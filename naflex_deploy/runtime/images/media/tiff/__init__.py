"""TIFF: its directories, and the pages among them."""
