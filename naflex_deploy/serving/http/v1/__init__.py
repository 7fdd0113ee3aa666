"""The routes under /v1, in OpenAI's format."""
