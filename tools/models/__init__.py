"""Networks, loaders of model folders, embeddings, gradients and search for near copies."""
