"""The HTTP service without the cluster: routes, shapes, batches and limits. Knows nothing of Ray."""
