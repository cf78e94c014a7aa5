"""What the scripts beside this folder share: grids and cells, peers, tables, corpora and figures of the studies."""
