"""The version of this package, for bundles and outputs that say what made them."""

__version__ = "0.1.0"
TOOL = f"naflex-deploy {__version__}"
