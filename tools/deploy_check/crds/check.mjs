// Custom resources on standard input, as a JSON list; on standard output a JSON list of [place in the list, what is wrong].
//
// The packages hold what the CustomResourceDefinitions hold, in two forms: functions that validate values, and types. The
// functions know patterns and bounds and take unknown fields; the types know every field. So both are asked.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";

const PACKAGES = {
  "cert-manager.io": "cert-manager",
  "gateway.networking.k8s.io": "gateway-api",
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
};
const found = [];
const folder = mkdtempSync(join(import.meta.dirname, "objects-"));

function moduleOf({ apiVersion, kind }) {
  const known = PACKAGES[apiVersion.split("/")[0]];
  return known && `@kubernetes-models/${known}/${apiVersion}/${kind}`;
}

async function validated(object, place) {
  const module = moduleOf(object);
  let model;
  try {
    model = new (await import(module))[object.kind](object);
  } catch {
    found.push([place, `no schema of ${object.apiVersion} ${object.kind} is known`]);
    return;
  }
  try {
    model.validate();
  } catch (error) {
    found.push([place, error.message]);
    return;
  }
  const text = `import type { I${object.kind} as T } from "${module}";\nexport const t: T = ${JSON.stringify(object)};\n`;
  writeFileSync(join(folder, `${place}.ts`), text);
}

try {
  const objects = JSON.parse(readFileSync(0, "utf8"));
  await Promise.all(objects.map(validated));
  const options = { strict: true, noEmit: true, skipLibCheck: true, types: [], module: "nodenext", target: "es2022" };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions: options, include: ["*.ts"] }));
  const compiler = join(import.meta.dirname, "node_modules", "typescript", "bin", "tsc");
  const told = spawnSync(process.execPath, [compiler, "--project", folder, "--pretty", "false"], { encoding: "utf8" });
  for (const [, file, what] of told.stdout.matchAll(/^(\S+\.ts)\(\d+,\d+\): error TS\d+: (.*)$/gm)) {
    found.push([Number(basename(file, ".ts")), what]);
  }
  if (told.status && !found.length && !told.stdout.includes("TS18003")) throw new Error(told.stdout + told.stderr);
} finally {
  rmSync(folder, { recursive: true });
}
console.log(JSON.stringify(found));
