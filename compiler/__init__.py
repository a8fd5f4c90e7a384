"""The meaning of a spec: a graph, a torch module, and what it costs."""
