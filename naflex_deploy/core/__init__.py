"""The types that every other part builds on: packs, profiles, manifests, errors. Needs numpy and pydantic only."""
