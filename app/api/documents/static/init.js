"use strict";

/* The examples work from top to bottom in this order. */
function order(shown) {
  return shown.getIn(["operation", "x-order"]);
}

/* Examples of lines are shown as lines; by default every type with "json" in its name shows them as one JSON string. */
function showLines() {
  return {
    afterLoad() {
      const sample = this.fn.getSampleSchema;
      this.fn.getSampleSchema = (schema, mediaType, options, example) =>
        typeof example === "string" && mediaType !== "application/json"
          ? example
          : sample(schema, mediaType, options, example);
    },
  };
}

/* All problems have one schema, which is below: an operation lists only their statuses and codes. */
function showProblemsOnce() {
  return {
    wrapComponents: {
      response: (Response, { React }) => (properties) => {
        const response = properties.response;
        const isProblem = response.hasIn(["content", "application/problem+json"]);
        return React.createElement(Response, {
          ...properties,
          response: isProblem ? response.delete("content") : response,
        });
      },
    },
  };
}

function followColorScheme() {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const apply = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
  dark.addEventListener("change", apply);
  apply();
}

followColorScheme();
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  persistAuthorization: false,
  filter: true,
  plugins: [showLines, showProblemsOnce],
  operationsSorter: (one, other) => order(one) - order(other),
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
});
