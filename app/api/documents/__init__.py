"""Documents about the API: OpenAPI, Swagger UI and the pages of problems."""
