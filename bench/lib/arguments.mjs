/** Arguments of full-frames for a video that need not exist: queued runs of benchmarks are never run. */
export const fullFramesOf = (videoId) => ({
  'video-id': videoId,
  'video-path': `/data/videos/${videoId}/original.mp4`,
  'db-path': `/data/videos/${videoId}/annotations.db`,
  'output-dir': `/data/videos/${videoId}/scratch`,
  'frame-rate': 0.1,
});
