"""Reports of benchmarks: tables, the HTML page, and the provenance of the figures."""
