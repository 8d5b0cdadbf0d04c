"use strict";

/* The examples work from top to bottom in this order. */
function order(shown) {
  return shown.getIn(["operation", "x-order"]);
}

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  persistAuthorization: true,
  filter: true,
  operationsSorter: (one, other) => order(one) - order(other),
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
});
