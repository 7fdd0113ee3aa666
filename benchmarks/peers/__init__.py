"""This engine beside what people run instead, in turns."""
