// Asks a finemesh and prints what it answers: a client of finemesh.search.v1, generated from proto/.

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { credentials, Metadata, status, type ServiceError } from "@grpc/grpc-js";

import {
  SearchRequest,
  SearchServiceClient,
  StageReason,
  type SearchResponse,
  type SearchStreamResponse,
  type StageReport,
} from "./generated/finemesh/search/v1/search.js";

/** Added to the budget for the deadline: the mesh answers within the budget with what it has, a silent one is left. */
const GRACE_MS = 500;

/** An overloaded mesh says in `grpc-retry-pushback-ms` when to try again, or never; gRPC obeys, within the deadline. */
const RETRY_ONCE = {
  methodConfig: [
    {
      name: [{ service: "finemesh.search.v1.SearchService" }],
      retryPolicy: {
        maxAttempts: 2,
        initialBackoff: "0.1s",
        maxBackoff: "1s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["RESOURCE_EXHAUSTED"],
      },
    },
  ],
};

const USAGE =
  "usage: search.js --address HOST:PORT [--ca FILE] --collection NAME --query TEXT [--pipeline NAME] [--budget-ms N] [--stream]\n" +
  "--ca: the authority for TLS; without it: plaintext. An API key is taken from FINEMESH_API_KEY.";

type Arguments = ReturnType<typeof readArguments>;

function readArguments() {
  try {
    const { values } = parseArgs({
      options: {
        address: { type: "string", default: "" },
        ca: { type: "string" },
        collection: { type: "string", default: "" },
        query: { type: "string", default: "" },
        pipeline: { type: "string", default: "" },
        "budget-ms": { type: "string", default: "2000" },
        stream: { type: "boolean", default: false },
      },
    });
    const budgetMs = Number(values["budget-ms"]);
    if (!values.address || !values.collection || !values.query || !Number.isInteger(budgetMs)) {
      throw new TypeError("--address, --collection and --query are needed; --budget-ms is a whole number");
    }
    return { ...values, budgetMs };
  } catch (error) {
    console.error(`${(error as Error).message}\n${USAGE}`);
    process.exit(2);
  }
}

/** The answer, and with `--stream` those before it. */
async function* ask(mesh: SearchServiceClient, { collection, query, pipeline, budgetMs, stream }: Arguments) {
  const request = SearchRequest.fromPartial({ collection, query, pipeline, budgetMs });
  const metadata = new Metadata();
  const key = process.env["FINEMESH_API_KEY"];
  if (key) metadata.set("authorization", `Bearer ${key}`);
  const options = { deadline: Date.now() + budgetMs + GRACE_MS };
  if (!stream) {
    const answer = await new Promise<SearchResponse>((resolve, reject) => {
      mesh.search(request, metadata, options, (error, response) => (error ? reject(error) : resolve(response)));
    });
    yield { header: "answer", answer };
    return;
  }
  const messages: AsyncIterable<SearchStreamResponse> = mesh.searchStream(request, metadata, options);
  for await (const { answer, isLast } of messages) {
    if (answer) yield { header: isLast ? "answer" : "so far", answer };
  }
}

function* lines(answer: SearchResponse) {
  for (const [place, hit] of answer.hits.entries()) {
    yield `  ${place + 1}. ${hit.score.toFixed(4)}  ${hit.id}  ${hit.title}`.trimEnd();
  }
  for (const report of answer.stages) yield `  ${report.stage}: ${outcome(report)}`;
  if (answer.degraded) yield "  degraded: stages did less than they were asked to";
}

function outcome({ status, reason }: StageReport) {
  const word = status.replace("STAGE_STATUS_", "").toLowerCase();
  if (reason === StageReason.STAGE_REASON_UNSPECIFIED) return word;
  return `${word} (${reason.replace("STAGE_REASON_", "").toLowerCase()})`;
}

async function run(read: Arguments) {
  const transport = read.ca ? credentials.createSsl(readFileSync(read.ca)) : credentials.createInsecure();
  const options = { "grpc.service_config": JSON.stringify(RETRY_ONCE) };
  const mesh = new SearchServiceClient(read.address, transport, options);
  try {
    for await (const { header, answer } of ask(mesh, read)) console.log([header, ...lines(answer)].join("\n"));
  } finally {
    mesh.close();
  }
}

const read = readArguments();
try {
  await run(read);
} catch (error) {
  const { code, details, message } = error as ServiceError;
  console.error(details ? `${read.address}: ${status[code]}: ${details}` : message);
  process.exitCode = 1;
}
