"""Evidence that posteriors are right."""
