"""What the host does beside the engine: decoding, packing, start-up, installation."""
