"""Every kind of input beside what an independent viewer shows of it."""
