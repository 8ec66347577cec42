// One film: from its frames to its caption strip, and what was made from what.

import { cancelFlowRun, getFlowRun, getLineage, listFlowRuns, retryFlowRun, type Asset } from '@captionacc/orchestrator';
import { data, Form, useNavigation } from 'react-router';

import type { Route } from './+types/video';
import { isOver, FlowRunPanel, ProblemNote, StateBadge } from './flow-run';
import { needed, problemOf, queueCropFrames, queueFullFrames, type Problem } from './flows.server';
import { describe, minute } from './format';
import { Frames } from './frames';
import { StripOverTime } from './strip';
import { readFrames, readStrip, readVideo, withoutPaths } from './videos.server';

export async function loader({ params: { id } }: Route.LoaderArgs) {
  const video = readVideo(id);
  const [runs, lineage] = await needed(Promise.all([listFlowRuns({ videoId: id, limit: 20 }), getLineage()]));
  /** The newest run of a flow, with all that is kept of it. Runs are forgotten after a week, frames are not. */
  const newest = async (flowName: string) => {
    const run = runs.find((one) => one.flowName === flowName);
    return run && (await needed(getFlowRun(run.flowRunId)));
  };
  return withoutPaths(id, {
    video,
    frames: readFrames(id),
    strip: readStrip(id),
    runs,
    fullFrames: await newest('full-frames'),
    cropFrames: await newest('crop-frames'),
    assets: Object.values(lineage.assets).filter(({ key }) => key === `video://${id}` || key.startsWith(`annotations://${id}/`)),
  });
}

export async function action({ params: { id }, request }: Route.ActionArgs) {
  const form = await request.formData();
  const text = (name: string) => String(form.get(name) ?? '');
  let problem: Problem | undefined;
  try {
    switch (text('intent')) {
      case 'read':
        await queueFullFrames(id);
        break;
      case 'crop': {
        const side = (name: string) => Number(text(name));
        await queueCropFrames(id, { left: side('left'), top: side('top'), right: side('right'), bottom: side('bottom') });
        break;
      }
      case 'cancel':
        await cancelFlowRun(text('run'));
        break;
      case 'retry':
        await retryFlowRun(text('run'));
        break;
      default:
        throw new Response('This is not something that can be asked for.', { status: 400 });
    }
  } catch (error) {
    problem = problemOf(error);
  }
  return data({ problem }, { status: problem ? 409 : 200 });
}

export default function Video({ loaderData, actionData }: Route.ComponentProps) {
  const { video, frames, strip, runs, fullFrames, cropFrames, assets } = loaderData;
  const isRead = frames.length > 0;
  return (
    <>
      <title>{video.metadata.original_filename}</title>
      <div className="title">
        <h1>{video.metadata.original_filename}</h1>
        <p className="quiet">{describe(video.metadata)}</p>
      </div>
      {actionData?.problem && <ProblemNote problem={actionData.problem} />}

      <section className="card">
        <h2>Frames and texts</h2>
        {fullFrames && (
          <FlowRunPanel run={fullFrames} row={video.processing}>
            {isRead && (
              <a className="button" href={`/videos/${video.id}/texts`}>
                Texts
              </a>
            )}
            {fullFrames.state.type === 'COMPLETED' && <ReadButton>Read again</ReadButton>}
          </FlowRunPanel>
        )}
        {!fullFrames && <ReadButton>Read the film</ReadButton>}
        {isRead && (
          // Another set of frames begins anew, with another suggestion.
          <Frames
            key={video.frames.version}
            videoId={video.id}
            frames={frames}
            version={video.frames.version}
            chosen={strip && video.layout}
          />
        )}
      </section>

      {(cropFrames || strip) && (
        <section className="card">
          <h2>The strip over time</h2>
          {cropFrames && <FlowRunPanel run={cropFrames} row={video.cropping} />}
          {strip && <StripOverTime videoId={video.id} strip={strip} frames={frames} />}
        </section>
      )}

      {assets.length > 0 && <Lineage assets={assets} />}

      {runs.length > 0 && (
        <section className="card">
          <h2>Runs</h2>
          <ul className="rows">
            {runs.map((run) => (
              <li key={run.flowRunId}>
                <StateBadge run={run} /> <span>{run.flowName}</span>
                <time className="quiet">{minute(run.createdAt)}</time>
                <span className="quiet">{isOver(run.state) && run.state.message}</span>
              </li>
            ))}
          </ul>
        </section>
      )}
    </>
  );
}

function ReadButton({ children }: { children: string }) {
  return (
    <Form method="post">
      <button name="intent" value="read" disabled={useNavigation().state !== 'idle'}>
        {children}
      </button>
    </Form>
  );
}

/** What was made, from what, and whether that has changed since. */
function Lineage({ assets }: { assets: Asset[] }) {
  const inOrder = assets.toSorted((one, other) => one.version - other.version);
  const short = (key: string) => key.replace(/^video:.*/, 'film').replace(/^annotations:\/\/[^/]*\//, '');
  return (
    <section className="card">
      <h2>Made from</h2>
      <ul className="rows">
        {inOrder.map(({ key, upstreams, staleBecause, materializedAt }) => (
          <li key={key}>
            <span className={`badge ${staleBecause.length > 0 ? 'stale' : 'fresh'}`}>{staleBecause.length > 0 ? 'stale' : 'up to date'}</span>
            <span>{short(key)}</span>
            <time className="quiet">{minute(materializedAt)}</time>
            <span className="quiet">
              {staleBecause.length > 0
                ? staleBecause.map((reason) => reason.replace(/\S+:\/\/\S+/, short).replace(/ by flow run \S+/, '')).join('; ')
                : upstreams.length > 0 && `from ${upstreams.map((upstream) => short(upstream.key)).join(', ')}`}
            </span>
          </li>
        ))}
      </ul>
    </section>
  );
}
