"""MONAI: expansion in its trainer."""
