// Videos, those first that were worked at last.

import type { JSX } from 'preact';
import { useState } from 'preact/hooks';

import type { VideoSummary } from '../api.js';
import { Ago, Empty, Loading, ProblemNote, StateBadge, Thumbnail } from '../parts.js';
import { useLive, useResource, useThrottled } from '../resource.js';
import { videoPlace } from '../router.js';
import { FirstFilm } from './home.js';

export function VideosPage(): JSX.Element {
  const videos = useResource<VideoSummary[]>('/api/videos');
  const [text, setText] = useState('');
  const reload = useThrottled(videos.reload, 3000);
  useLive((live) => {
    if (live.type === 'runs') reload();
  });
  const needle = text.toLowerCase();
  const shown = (videos.data ?? []).filter((video) => `${video.videoId} ${video.fileName ?? ''}`.toLowerCase().includes(needle));
  return (
    <>
      <h1>Videos</h1>
      {videos.problem ? <ProblemNote problem={videos.problem} retry={videos.reload} /> : null}
      {videos.data && videos.data.length > 0 ? (
        <form class="filters" role="search" onSubmit={(event) => event.preventDefault()}>
          <input type="search" data-search placeholder="Id or name of the file" aria-label="Id or name of the file" value={text} onInput={(event) => setText(event.currentTarget.value)} />
        </form>
      ) : null}
      {videos.data === null && !videos.problem ? <Loading /> : null}
      {videos.data?.length === 0 ? <FirstFilm /> : null}
      {videos.data && videos.data.length > 0 && shown.length === 0 ? <Empty title="No video matches." /> : null}
      <ul class="videos">
        {shown.map((video) => (
          <li key={video.videoId}>
            <a href={videoPlace(video.videoId)} data-row>
              <Thumbnail videoId={video.videoId} />
              <b>{video.videoId}</b>
              <span class="quiet file" title={video.fileName ?? undefined}>
                {video.fileName}
              </span>
            </a>
            <span>
              <StateBadge state={video.newestRun.state} /> <span class="quiet">{video.newestRun.flowName} <Ago time={video.newestRun.state.timestamp} /></span>
            </span>
          </li>
        ))}
      </ul>
    </>
  );
}
