"""The composition root: the one place that knows every stage, and wires it to the store."""
