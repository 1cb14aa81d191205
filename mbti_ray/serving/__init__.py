"""The HTTP service without the cluster: routes, shapes, limits, batches. Knows nothing of Ray."""
