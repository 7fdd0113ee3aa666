"""Position embeddings for any patch grid."""
