from tests.support.tiny import bundle, own_bundle

__all__ = ["bundle", "own_bundle"]
