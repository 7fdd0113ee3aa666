"""A bundle on disk: opening, checking, verifying, stripping and signing it."""
