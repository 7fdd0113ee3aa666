"""Vision towers written again from their publishers' code, to compare our readers of their checkpoints with.

Nothing here may import `naflex_deploy`, and nothing here follows what our readers do: a comparison of two programs
proves something only if they were written apart. Each module names the public source of each formula. It makes a tiny
directory with the tensor names and the fields of config.json of the published checkpoint, and computes each image by
itself, so that no image can see another one.
"""
