"""Hostile inputs by area, given to the commands' own boundary in this process."""
