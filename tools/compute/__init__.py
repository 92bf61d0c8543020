"""Execution on several devices: data-parallel training and Ray clusters."""
