// Time to first token and time between tokens of GenerateStream, by adapter.
//
//   k6 run -e TARGET=localhost:50051 -e ADAPTERS=,pirate,json -e CALLS=200 -e VUS=8 examples/load/stream.js
//
// ADAPTERS in turn, the empty name is the base. CALLS in all, or DURATION=30s; RPS=10 sends calls when they are due (an
// open loop). TOKENS and PROMPT of a call; TOKEN is a bearer token, TLS=1 turns TLS on, CA is the authority's file. The
// schema comes from the server's reflection, with PROTOS=$PWD/protos from these files (a whole path: k6 looks for others
// beside the script).
import grpc from 'k6/net/grpc';
import exec from 'k6/execution';
import { Counter, Trend } from 'k6/metrics';

const env = { TARGET: 'localhost:50051', ADAPTERS: '', VUS: '8', TOKENS: '32', PROMPT: 'Tell me about dogs.', ...__ENV };
const names = env.ADAPTERS.split(',');
const label = (name) => name || 'base';
const ttft = new Trend('ttft', true), itl = new Trend('itl', true);
const tokens = new Counter('tokens'), streams = new Counter('streams');
const statuses = ['OK', 'Canceled', 'DeadlineExceeded', 'NotFound', 'ResourceExhausted', 'Internal', 'Unavailable'];
const codes = Object.fromEntries(Object.entries(grpc).filter(([n]) => n.startsWith('Status')).map(([n, c]) => [c, n.slice(6)]));

const authority = env.CA ? open(env.CA) : null; // files are read before the load alone
const client = new grpc.Client();
if (env.PROTOS) client.load([env.PROTOS], 'loramux/v1/inference.proto');

function scenario() {
  const vus = +env.VUS;
  if (env.RPS) {
    const shared = { rate: +env.RPS, timeUnit: '1s', preAllocatedVUs: vus, maxVUs: 8 * vus, gracefulStop: '2m' };
    return { executor: 'constant-arrival-rate', duration: env.DURATION || '30s', ...shared };
  }
  if (env.CALLS) return { executor: 'shared-iterations', vus, iterations: +env.CALLS, maxDuration: '1h' };
  return { executor: 'constant-vus', vus, duration: env.DURATION || '30s', gracefulStop: '2m' };
}

export const options = {
  scenarios: { load: scenario() },
  summaryTrendStats: ['med', 'p(90)', 'p(99)', 'max', 'count'],
  // k6 shows a part of a metric only where a threshold names it.
  thresholds: {
    ...Object.fromEntries(statuses.map((s) => [`streams{status:${s}}`, [s === 'OK' ? 'count>0' : 'count>=0']])),
    ...Object.fromEntries(names.slice(0, 8).flatMap((n) => [`ttft{adapter:${label(n)}}`, `itl{adapter:${label(n)}}`].map((m) => [m, ['max>=0']]))),
  },
};

export default function () {
  const metadata = env.TOKEN ? { authorization: `Bearer ${env.TOKEN}` } : {};
  if (__ITER === 0) {
    const tls = authority ? { tls: { cacerts: authority } } : {};
    client.connect(env.TARGET, { plaintext: !(env.TLS || authority), reflect: !env.PROTOS, reflectMetadata: metadata, ...tls });
  }
  const name = names[exec.scenario.iterationInTest % names.length];
  const tags = { adapter: label(name) };
  const stream = new grpc.Stream(client, 'loramux.v1.Inference/GenerateStream', { metadata });
  const sent = Date.now();
  let last = 0, status = 'OK';
  stream.on('data', (message) => {
    const now = Date.now(), count = (message.tokenIds || []).length;
    if (!count) return;
    if (last) itl.add((now - last) / count, tags);
    else ttft.add(now - sent, tags);
    last = now;
    tokens.add(count, tags);
  });
  stream.on('error', (error) => { status = codes[error.code] || `${error.code}`; });
  stream.on('end', () => streams.add(1, { status, ...tags }));
  stream.write({ adapterId: name, prompt: env.PROMPT, maxNewTokens: +env.TOKENS, ignoreEos: true });
  stream.end();
}
