"""HTML pages that load nothing, and the model card: plain records in, text out."""
