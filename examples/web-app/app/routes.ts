import { index, route, type RouteConfig } from '@react-router/dev/routes';

export default [
  index('home.tsx'),
  route('uploads', 'upload.ts'),
  route('videos/:id', 'video.tsx'),
  route('videos/:id/texts', 'texts.ts'),
  route('videos/:id/:kind/:frame', 'picture.ts'),
  route('runs/:id/events', 'events.ts'),
] satisfies RouteConfig;
