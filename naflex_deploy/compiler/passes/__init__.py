"""Passes: each recognises one piece of a graph by its structure and rewrites it.

One file a pass, with three functions:

- `match` yields the nodes where the piece could be;
- `check` looks closer, and either returns what `rewrite` needs or says in words why this is not the piece;
- `rewrite` replaces it.

Recognition never relies on names of tensors or nodes: other tools rename both. Only graph inputs are known by name,
as those are the contract of a packed graph. Where many forms of one computation occur, `check` computes the piece on
a few probe values and compares them with what it takes it for.
"""
