/**
 * Queues runs from some callers at once for some seconds, and prints what came of it as one line of JSON.
 *
 * Usage: callers.mjs ours|bare COUNT SECONDS, or callers.mjs beside COUNT BURSTS. `ours` is queuePrefectFlow; `bare` a POST
 * that is never repeated, over as many keep-alive connections as there are callers; `beside` queues COUNT runs of both flows at
 * once, that often, while a worker works through them (their films are missing, so that they soon fail). The API is that of
 * scripts/with-prefect.sh; names of pool and deployment come from the environment.
 */
import { randomUUID } from 'node:crypto';
import { fullFramesOf } from './arguments.mjs';
import { startWorker } from './harness.mjs';
import { Api, setUp } from './prefect.mjs';

const [side, count, times] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const address = process.env.CAPTIONACC_TEST_PREFECT_API_URL;
process.env.PREFECT_API_URL = address;
await setUp(address, process.env);
const api = new Api(address, count);
const deployment = await api.deployment('full-frames', process.env.CAPTIONACC_DEPLOYMENT);
const { queuePrefectFlow } = await import('@captionacc/orchestrator');
const cropped = { 'crop-bounds': { left: 0, top: 500, right: 1280, bottom: 720 }, 'frame-rate': 10 };
const queue = {
  ours: (args) => queuePrefectFlow('full-frames', args),
  async bare(args) {
    const body = { parameters: args, tags: [`video:${args['video-id']}`], idempotency_key: randomUUID() };
    const answer = await api.ask('POST', `/deployments/${deployment}/create_flow_run`, body);
    if (answer.status !== 201) throw new Error(String(answer.status));
  },
  beside: (args, number) => (number % 2 === 0 ? queue.ours(args) : queuePrefectFlow('crop-frames', { ...args, ...cropped })),
};
const ask = queue[side];
// The first calls look up what later ones know.
for (const number of [0, 1]) await ask(fullFramesOf(randomUUID()), number).catch(() => {});
const worker = side === 'beside' ? await startWorker([], process.env) : undefined;

const failures = {};
const latenciesMs = [];
const call = async (number) => {
  const calledAt = performance.now();
  try {
    await ask(fullFramesOf(randomUUID()), number);
    latenciesMs.push(performance.now() - calledAt);
  } catch (error) {
    const what = error.code ?? error.message;
    failures[what] = (failures[what] ?? 0) + 1;
  }
};
const startedAt = performance.now();
if (worker) {
  for (let burst = 0; burst < times; burst += 1) await Promise.all(Array.from({ length: count }, (_, number) => call(number)));
} else {
  const caller = async (number) => {
    while (performance.now() - startedAt < times * 1000) await call(number);
  };
  await Promise.all(Array.from({ length: count }, (_, number) => caller(number)));
}
const tookSeconds = (performance.now() - startedAt) / 1000;
await worker?.stop();
api.close();
const failed = Object.values(failures).reduce((sum, number) => sum + number, 0);
const perSecond = latenciesMs.length / tookSeconds;
console.log(JSON.stringify({ created: latenciesMs.length, failed, failures, perSecond, latenciesMs }));
