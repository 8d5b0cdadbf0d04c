"""Builds the application from the settings: the only place where things are built."""

from app.main.application import Application, create_app

__all__ = ["Application", "create_app"]
