"""Form packs from the requests of many callers, for servers."""
