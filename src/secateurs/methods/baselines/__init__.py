"""Baselines that the three methods are compared with, one file each. Files with a leading underscore are shared by them."""
