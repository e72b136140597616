"""Train and evaluate models on the very features that the consumer computes."""
