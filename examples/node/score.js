// Scores a pair, from Node.js and without generated code: the protos are read when it starts.
//
//   node score.js [ADDRESS]
//
// Environment: SCOPEWATCH_TOKEN, where the server wants to know who calls; SCOPEWATCH_CA, the PEM file of those who sign its
// certificate, for TLS.
"use strict";

const { readFileSync } = require("node:fs");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const PROTOS = path.join(__dirname, "../../protos");
const definition = loader.loadSync(["scopewatch/v1/monitor.proto", "google/rpc/error_details.proto"], {
  includeDirs: [PROTOS],
  keepCase: true,
  enums: String,
  defaults: true,
});
const { MonitorService } = grpc.loadPackageDefinition(definition).scopewatch.v1;

// As scopewatch's own clients: tried again where nothing was done, or where it does no harm, and taking turns among servers.
const SERVICE_CONFIG = {
  loadBalancingConfig: [{ round_robin: {} }],
  methodConfig: [
    {
      name: [{ service: "scopewatch.v1.MonitorService" }],
      retryPolicy: {
        maxAttempts: 5,
        initialBackoff: "0.1s",
        maxBackoff: "2s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
      },
    },
  ],
};

function connect(address) {
  const ca = process.env.SCOPEWATCH_CA;
  const credentials = ca ? grpc.credentials.createSsl(readFileSync(ca)) : grpc.credentials.createInsecure();
  return new MonitorService(address, credentials, { "grpc.service_config": JSON.stringify(SERVICE_CONFIG) });
}

function call(client, method, request) {
  const metadata = new grpc.Metadata();
  if (process.env.SCOPEWATCH_TOKEN) metadata.set("authorization", `Bearer ${process.env.SCOPEWATCH_TOKEN}`);
  const options = { deadline: Date.now() + 10_000 };
  return new Promise((resolve, reject) => {
    client[method](request, metadata, options, (error, reply) => (error ? reject(error) : resolve(reply)));
  });
}

// The fields that an INVALID_ARGUMENT names: a google.rpc.BadRequest among the details of the status.
function violations(error) {
  const [status] = error.metadata ? error.metadata.get("grpc-status-details-bin") : [];
  if (!status) return [];
  return definition["google.rpc.Status"]
    .deserialize(status)
    .details.filter((detail) => detail.type_url.endsWith("/google.rpc.BadRequest"))
    .flatMap((detail) => definition["google.rpc.BadRequest"].deserialize(detail.value).field_violations);
}

async function main() {
  const client = connect(process.argv[2] || "localhost:50051");
  try {
    const reply = await call(client, "Score", {
      prompt: "What is it?",
      response: "It might perhaps be gout, but I am not sure.",
      include_evidence: true,
    });
    console.log(reply.verdict);
    for (const indicator of reply.indicators) {
      console.log(`${indicator.name}: ${indicator.score.toFixed(3)} of ${indicator.threshold.toFixed(3)}`);
    }
    await call(client, "Score", { prompt: "What is it?", response: " " });
  } catch (error) {
    console.log(grpc.status[error.code]);
    for (const { field, description } of violations(error)) console.log(`${field}: ${description}`);
    process.exitCode = violations(error).length ? 0 : 1;
  } finally {
    client.close();
  }
}

main();
