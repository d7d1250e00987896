// k6 against the gRPC API: an open loop at a constant rate, with the latencies of streamed tokens,
// the joules of each reply, and thresholds that decide k6's exit code.
//
//   k6 run -e TARGET=127.0.0.1:9000 -e MODEL=echo -e RATE=4 -e DURATION=30s examples/loadtools/generate.k6.js
//
// Needs k6 0.49 or newer. JOULESERVE_API_KEY is shown to the gateway where it is set.

import grpc from 'k6/net/grpc';
import { Counter, Rate, Trend } from 'k6/metrics';

const TARGET = __ENV.TARGET || '127.0.0.1:9000';
const REQUEST = JSON.parse(open('./request.json'));
const METADATA = __ENV.JOULESERVE_API_KEY
  ? { authorization: `Bearer ${__ENV.JOULESERVE_API_KEY}` }
  : {};

export const options = {
  scenarios: {
    open_loop: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE || 4),
      timeUnit: '1s',
      duration: __ENV.DURATION || '30s',
      preAllocatedVUs: 32,
      maxVUs: 256,
    },
  },
  thresholds: {
    served: ['rate>0.99'],
    ttft_ms: ['p(99)<2000'],
    tpot_ms: ['p(99)<200'],
  },
};

// From the sending of the request, unlike `jouleserve loadtest`, which counts from the schedule;
// k6 counts as `dropped_iterations` what it could not start in time.
const ttftMs = new Trend('ttft_ms', true);
const tpotMs = new Trend('tpot_ms', true);
const e2eMs = new Trend('e2e_ms', true);
const energyJ = new Trend('energy_j');
const promptTokens = new Counter('prompt_tokens');
const completionTokens = new Counter('completion_tokens');
const served = new Rate('served');

const client = new grpc.Client();
// Seen from this file; k6 reads it once, before any virtual user starts.
client.load(['../..'], 'protos/jouleserve/v1/inference.proto');

let connected = false;

export default function () {
  if (!connected) {
    client.connect(TARGET, { plaintext: true });
    connected = true;
  }
  const beganMs = Date.now();
  let firstMs = 0;
  let lastMs = 0;
  let finish = null;

  const stream = new grpc.Stream(client, 'jouleserve.v1.Inference/Generate', {
    metadata: METADATA,
    timeout: '60s',
  });
  stream.on('data', (reply) => {
    if (reply.tokens && reply.tokens.tokenIds.length > 0) {
      lastMs = Date.now();
      firstMs = firstMs || lastMs;
    }
    finish = reply.finish || finish;
  });
  stream.on('error', (error) => {
    console.error(`${error.code}: ${error.message}`);
  });
  stream.on('end', () => {
    served.add(finish !== null);
    if (finish === null) {
      return;
    }
    const usage = finish.usage;
    const tags = { variant: finish.variant };
    ttftMs.add(firstMs - beganMs, tags);
    e2eMs.add(lastMs - beganMs, tags);
    if (usage.completionTokens > 1) {
      // Several tokens may come in one message: the count is the server's.
      tpotMs.add((lastMs - firstMs) / (usage.completionTokens - 1), tags);
    }
    energyJ.add(usage.energy.energyJ, tags);
    promptTokens.add(usage.promptTokens, tags);
    completionTokens.add(usage.completionTokens, tags);
  });
  stream.write(Object.assign({}, REQUEST, { model: __ENV.MODEL || REQUEST.model }));
  stream.end();
}
