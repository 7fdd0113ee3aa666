"""Image towers inside vision-language models: an entry for each family, and one reader for all of them."""
