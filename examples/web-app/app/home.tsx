// All films, and the way in for new ones.

import { listFlowRuns } from '@captionacc/orchestrator';
import { useEffect, useRef, useState } from 'react';
import { Form, Link, redirect, useNavigate, useNavigation, useRevalidator } from 'react-router';

import type { Route } from './+types/home';
import { isOver, StateBadge } from './flow-run';
import { needed, problemOf, queueFullFrames } from './flows.server';
import { describe, pictureAddress, size } from './format';
import { addReadyFilm, readVideo, readyFilms, videoIds } from './videos.server';

export async function loader() {
  // Newest first, so the first one of a video is its newest.
  const runs = await needed(listFlowRuns({ limit: 1000 }));
  const videos = videoIds().map((id) => {
    const run = runs.find(({ parameters }) => parameters['video-id'] === id);
    const { metadata, frames } = readVideo(id);
    return { id, metadata, frames, run };
  });
  videos.sort((one, other) => other.metadata.uploaded_at.localeCompare(one.metadata.uploaded_at));
  return { videos, films: readyFilms() };
}

export async function action({ request }: Route.ActionArgs) {
  const id = addReadyFilm(String((await request.formData()).get('film')));
  try {
    await queueFullFrames(id);
  } catch (error) {
    // Its page offers to queue again.
    console.error(problemOf(error).message);
  }
  return redirect(`/videos/${id}`);
}

export default function Home({ loaderData: { videos, films } }: Route.ComponentProps) {
  const isChoosing = useNavigation().state !== 'idle';
  const isAtWork = videos.some(({ run }) => run && !isOver(run.state));
  const { revalidate } = useRevalidator();
  useEffect(() => {
    if (!isAtWork) return;
    // Asked for again, not streamed: a browser keeps few connections to one server, and each stream would hold one.
    const timer = setInterval(() => void revalidate(), 2000);
    return () => clearInterval(timer);
  }, [isAtWork, revalidate]);
  return (
    <>
      <title>Captions</title>
      <div className="ways-in">
        <Upload />
        <section className="card">
          <h2>Or take one of these</h2>
          {films.length === 0 && <p className="quiet">No film lies ready: npm run example puts some there.</p>}
          <Form method="post" className="films">
            {films.map(({ name, bytes }) => (
              <button key={name} name="film" value={name} disabled={isChoosing}>
                <span>{name}</span> <small>{size(bytes)}</small>
              </button>
            ))}
          </Form>
        </section>
      </div>
      <section>
        <h2>Films</h2>
        {videos.length === 0 && <p className="quiet">None yet. A film that you upload or take is read at once.</p>}
        <ul className="videos">
          {videos.map(({ id, metadata, frames, run }) => (
            <li key={id}>
              <Link to={`/videos/${id}`} className="card">
                {frames.count === 0 ? <div className="no-picture" /> : <img src={pictureAddress(id, 'frames', frames.middle, frames.version)} alt="" />}
                <strong>{metadata.original_filename}</strong>
                <span className="quiet">{describe(metadata)}</span>
                {run && <StateBadge run={run} />}
              </Link>
            </li>
          ))}
        </ul>
      </section>
    </>
  );
}

function Upload() {
  const navigate = useNavigate();
  const input = useRef<HTMLInputElement>(null);
  const [sent, setSent] = useState<number>();
  const [refusal, setRefusal] = useState('');
  const [isOverIt, setIsOverIt] = useState(false);

  function send(file: File | undefined) {
    if (!file || sent !== undefined) return;
    setRefusal('');
    setSent(0);
    // Not fetch(), which does not say how much has been sent.
    const request = new XMLHttpRequest();
    request.upload.addEventListener('progress', ({ loaded, total }) => setSent(loaded / total));
    request.addEventListener('loadend', () => {
      setSent(undefined);
      // Else the same file could not be chosen again.
      if (input.current) input.current.value = '';
      if (request.status === 200) void navigate(`/videos/${JSON.parse(request.responseText).id}`);
      else setRefusal(request.status === 400 ? request.responseText : 'The upload broke off. Is the app still running?');
    });
    request.open('POST', '/uploads');
    request.setRequestHeader('X-File-Name', encodeURIComponent(file.name));
    request.send(file);
  }

  // Who was quicker than this script has chosen a film already.
  useEffect(() => send(input.current?.files?.[0]), []);

  return (
    <section
      className={`card drop ${isOverIt ? 'over' : ''}`}
      onDragOver={(event) => {
        event.preventDefault();
        setIsOverIt(true);
      }}
      onDragLeave={() => setIsOverIt(false)}
      onDrop={(event) => {
        event.preventDefault();
        setIsOverIt(false);
        send(event.dataTransfer.files[0]);
      }}
    >
      <h2>Upload a film</h2>
      <p className="quiet">mp4, mkv, mov, webm, … Drop it here, or choose it.</p>
      <label className="button main">
        Choose a file
        <input ref={input} type="file" disabled={sent !== undefined} onChange={(event) => send(event.target.files?.[0])} />
      </label>
      {sent !== undefined && <progress value={sent} aria-label="Uploaded" />}
      {refusal && (
        <p className="problem" role="alert">
          {refusal}
        </p>
      )}
    </section>
  );
}
