"""Documents for people and programs: the start page, guides, OpenAPI, Swagger UI and the pages of problems."""
