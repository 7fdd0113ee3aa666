"""The HTTP server: Open Inference Protocol v2, embeddings in OpenAI's format, health and metrics."""
