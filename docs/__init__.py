"""The documentation: pages in Markdown, and in `docs.site` what makes a website of them."""
