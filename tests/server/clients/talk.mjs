// What every client script in JavaScript shares: its job as one JSON argument, its report as one JSON line.
import { readFileSync } from "node:fs";

export const job = JSON.parse(process.argv[2]);
export const good = { image: job.picture };
export const bad = { image: "no-such-picture.png" };

export async function whenReady(call) {
  // Until the server has loaded its model it says so, and an agent would call again.
  for (let turn = 0; turn < 20; turn++) {
    const result = await call().catch((error) => ({ failed: String(error) }));
    if (!JSON.stringify(result).includes("not ready yet")) return result;
    await new Promise((done) => setTimeout(done, 3000));
  }
  throw new Error("the model was not ready in time");
}

export function report(packages, tools, structured, text, error) {
  const version = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`, "utf8")).version;
  const versions = Object.fromEntries(packages.map((name) => [name, version(name)]));
  console.log(JSON.stringify({ versions, tools, structured, text, error }));
  process.exit(0);
}
