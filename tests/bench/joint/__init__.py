"""Frequency and steps chosen together, beside other plans: time and energy to an accuracy."""
