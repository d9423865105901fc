// One load for k6, as `benchmarks.compare.judges` describes it. Date.now(), k6's only clock for a
// script, has whole milliseconds: means are exact, percentiles of gaps are not finer than that. The
// whole call is k6's own measure.
import grpc from 'k6/net/grpc';
import { Counter, Trend } from 'k6/metrics';

const env = __ENV;
const calls = +env.CALLS, rate = +env.RATE, vus = +env.VUS;
const request = JSON.parse(env.REQUEST);
const method = `loramux.v1.Inference/${env.METHOD}`;
const first = new Trend('first', true), gap = new Trend('gap', true);
const sent = new Trend('sent'), ended = new Trend('ended');
const names = Object.fromEntries(
  Object.entries(grpc).filter(([name]) => name.startsWith('Status')).map(([name, code]) => [code, name.slice(6)]),
);
const statuses = Object.fromEntries(Object.values(names).map((name) => [name, new Counter(`status_${name}`)]));

export const options = {
  scenarios: {
    load: rate
      ? {
          executor: 'constant-arrival-rate', rate, timeUnit: '1s', preAllocatedVUs: vus, maxVUs: vus,
          duration: `${(calls - 0.5) / rate}s`, // the last call comes before the end, and none with it
          gracefulStop: '10m',
        }
      : { executor: 'shared-iterations', vus, iterations: calls, maxDuration: '10m' },
  },
  summaryTrendStats: ['avg', 'min', 'med', 'p(90)', 'p(99)', 'max', 'count'],
};

const client = new grpc.Client();
client.load([env.PROTOS], env.PROTO);

function done(code) {
  ended.add(Date.now());
  statuses[names[code]].add(1);
}

function stream() {
  const call = new grpc.Stream(client, method);
  const start = Date.now();
  let last = 0, code = grpc.StatusOK;
  call.on('data', (message) => {
    const now = Date.now(), tokens = (message.tokenIds || []).length;
    if (!tokens) return;
    if (last) gap.add((now - last) / tokens);
    else first.add(now - start);
    last = now;
  });
  call.on('error', (error) => { code = error.code; });
  call.on('end', () => done(code));
  call.write(request);
  call.end();
}

export default function () {
  if (__ITER === 0) client.connect(env.TARGET, { plaintext: true });
  sent.add(Date.now());
  if (env.METHOD === 'GenerateStream') stream();
  else done(client.invoke(method, request, { timeout: '10m' }).status);
}

export function handleSummary({ metrics }) {
  const of = (name) => metrics[name] && metrics[name].values;
  const report = {
    taken: of('grpc_req_duration'), first: of('first') || null, gap: of('gap') || null,
    seconds: (of('ended').max - of('sent').min) / 1000,
    statuses: Object.fromEntries(
      Object.keys(statuses).map((name) => [name, (of(`status_${name}`) || { count: 0 }).count])
        .filter(([, count]) => count),
    ),
  };
  return { [env.REPORT]: JSON.stringify(report) };
}
