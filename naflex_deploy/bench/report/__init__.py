"""What a benchmark prints: tables, the HTML page, and where the figures were taken."""
