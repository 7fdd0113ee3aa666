"""Reading transformers' SigLIP2-NaFlex: its configuration, its weights, its image processor, its classifier."""
