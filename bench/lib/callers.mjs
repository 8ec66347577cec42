/**
 * Queues runs from some callers at once for some seconds, and prints what came of it as one line of JSON.
 *
 * Usage: callers.mjs ours|bare COUNT SECONDS. `ours` is queuePrefectFlow; `bare` a POST that is never repeated, over
 * as many keep-alive connections as there are callers. The API is that of scripts/with-prefect.sh; names of pool and
 * deployment come from the environment.
 */
import { randomUUID } from 'node:crypto';
import { fullFramesOf } from './arguments.mjs';
import { Api, setUp } from './prefect.mjs';

const [side, count, seconds] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const address = process.env.CAPTIONACC_TEST_PREFECT_API_URL;
process.env.PREFECT_API_URL = address;
await setUp(address, process.env);
const api = new Api(address, count);
const deployment = await api.deployment('full-frames', process.env.CAPTIONACC_DEPLOYMENT);
const { queuePrefectFlow } = await import('@captionacc/orchestrator');
const queue = {
  ours: (args) => queuePrefectFlow('full-frames', args),
  async bare(args) {
    const body = { parameters: args, tags: [`video:${args['video-id']}`], idempotency_key: randomUUID() };
    const answer = await api.ask('POST', `/deployments/${deployment}/create_flow_run`, body);
    if (answer.status !== 201) throw new Error(String(answer.status));
  },
}[side];
// The first call looks up what later ones know.
await queue(fullFramesOf(randomUUID())).catch(() => {});

const failures = {};
const latenciesMs = [];
const startedAt = performance.now();
const caller = async () => {
  while (performance.now() - startedAt < seconds * 1000) {
    const calledAt = performance.now();
    try {
      await queue(fullFramesOf(randomUUID()));
      latenciesMs.push(performance.now() - calledAt);
    } catch (error) {
      const what = error.code ?? error.message;
      failures[what] = (failures[what] ?? 0) + 1;
    }
  }
};
await Promise.all(Array.from({ length: count }, caller));
const tookSeconds = (performance.now() - startedAt) / 1000;
api.close();
const failed = Object.values(failures).reduce((sum, number) => sum + number, 0);
const perSecond = latenciesMs.length / tookSeconds;
console.log(JSON.stringify({ created: latenciesMs.length, failed, failures, perSecond, latenciesMs }));
