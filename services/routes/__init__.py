"""The routes of the API, one module a tag. Each adds its own to an application."""
