"""The HTTP service without the cluster: routes, schemas, limits, batching. Must not import Ray."""
