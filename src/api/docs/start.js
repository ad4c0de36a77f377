// The key stays where it was typed, until the page is closed. No validator of another host is asked.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#calls",
  deepLinking: true,
  displayOperationId: false,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  persistAuthorization: false,
  syntaxHighlight: { activated: true },
  validatorUrl: null,
});
