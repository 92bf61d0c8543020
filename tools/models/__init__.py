"""Networks and what is read off them: embeddings, gradients, loaders of model folders."""
