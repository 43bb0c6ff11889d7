"use strict";

/** Remove operations that repeat others: HEAD, and a path's second name. */
function removeRepetitions(spec) {
  for (const [path, operations] of Object.entries(spec.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      if (method === "head" || "x-alias-of" in operation) delete operations[method];
    }
    if (Object.keys(operations).length === 0) delete spec.paths[path];
  }
}

/** Remove the examples of optional parameters: Swagger UI would fill them in, and send them with every request. */
function removeOptionalExamples(spec) {
  for (const operations of Object.values(spec.paths)) {
    for (const parameter of Object.values(operations).flatMap((operation) => operation.parameters)) {
      if (!parameter.required) delete parameter.example;
    }
  }
}

async function show() {
  const response = await fetch("openapi.json");
  const spec = await response.json();
  removeRepetitions(spec);
  removeOptionalExamples(spec);
  SwaggerUIBundle({
    spec,
    dom_id: "#swagger-ui",
    deepLinking: true,
    tryItOutEnabled: true,
    validatorUrl: null, // the validator is a service on the Internet
  });
}

show();
