"""What every other part is written against: packs, profiles, manifests, errors. numpy and pydantic only."""
