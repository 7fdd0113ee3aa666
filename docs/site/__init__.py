"""Makes the documentation site: gathers the pages, generates the reference, builds, and checks what was built."""
