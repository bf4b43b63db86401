"""Latency: timing models, measuring latency tables, and predicting the latency of pruned models."""
