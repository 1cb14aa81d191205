"""Whether what is configured can run: what one machine is like, and what that means. No Ray."""
