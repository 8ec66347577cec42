import { getFlowRun, listFlowRuns, OrchestratorError, queuePrefectFlow } from '@captionacc/orchestrator';
import { Form, useActionData, useLoaderData } from 'react-router';

export async function loader() {
  return { runs: await listFlowRuns() };
}

export async function action({ request }: { request: Request }) {
  const form = await request.formData();
  try {
    const { flowRunId } = await queuePrefectFlow('full-frames', {
      'video-id': String(form.get('video')),
      'video-path': '/videos/1.mp4',
      'db-path': '/videos/annotations.db',
      'output-dir': '/videos/scratch',
    });
    const run = await getFlowRun(flowRunId);
    return { says: `${run.state.name} ${run.flowRunId}` };
  } catch (error) {
    if (error instanceof OrchestratorError) return { says: error.code };
    throw error;
  }
}

export default function Home() {
  const { runs } = useLoaderData<typeof loader>();
  const answer = useActionData<typeof action>();
  return (
    <main>
      <p id="runs">{runs.map((run) => run.flowRunId).join(' ')}</p>
      <p id="says">{answer?.says}</p>
      <Form method="post">
        <input name="video" />
      </Form>
    </main>
  );
}
