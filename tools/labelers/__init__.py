"""Ways to get, or to judge, the labels of an image. One file per way."""
