"""Pages that load nothing from elsewhere, and the model card: plain figures in, text out."""
