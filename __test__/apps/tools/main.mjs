import { queue } from './queue.mjs';

// No `await` here: this becomes CommonJS, too.
queue('imported').then(console.log);
