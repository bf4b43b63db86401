"""Metrics: functions that compare predictions with the labels of the data."""
