"""The witness of a build: the original library's own model and preprocessing, against the graph that was exported.

The reference model of a build comes from our reader, so that what the reader misunderstands passes the gate. The
witness does not use the reader: in a process of its own, transformers or timm loads the same files and prepares the
same images.
"""
