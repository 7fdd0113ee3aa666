"""Passes, each of which recognises one subgraph by its structure and rewrites it.

Each pass is a file with three functions:

- `match` yields the nodes that are candidates;
- `check` looks closer, and either returns what `rewrite` needs or the reason why the candidate does not match;
- `rewrite` replaces the subgraph.

Recognition never relies on the names of tensors or nodes, because other tools rename both. Only graph inputs are known
by name, since these are the contract of a packed graph. If a computation can take many forms, `check` evaluates the
subgraph on a few probe values and compares the result with the expected formula.
"""
