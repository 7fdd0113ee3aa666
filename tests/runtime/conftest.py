from tests.support.bundles import bundle, own_bundle

__all__ = ["bundle", "own_bundle"]
