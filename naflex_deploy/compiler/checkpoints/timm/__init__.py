"""Reading timm's NaFlexVit: its configuration, its weights, and modules in memory."""
