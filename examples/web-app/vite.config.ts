import { reactRouter } from '@react-router/dev/vite';
import { defineConfig } from 'vite';

// Nothing about @captionacc/orchestrator: it finds its addon by itself, linked or installed, in `dev` and in a build.
export default defineConfig({ plugins: [reactRouter()] });
