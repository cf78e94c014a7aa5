"""What only the studies need; the scripts beside this folder import it by name."""
